"""Label errors planted from a seed, so that what finds label errors can be scored."""

from __future__ import annotations

import dataclasses

import numpy as np

from errseg_jax.data.datasets.base import Sample, Source
from errseg_jax.data.regions import regions
from errseg_jax.structs import IGNORE


@dataclasses.dataclass(frozen=True)
class PlantedSource:
  """A source some of whose label regions carry a wrong class.

  A region is a connected part of one class. Each is flipped by its own draw, to one of the other classes that the
  same image has (an annotator's slip, not a class from nowhere). What is flipped follows from the seed and
  the sample's index alone: reading in any order, or twice, gives the same.

  Attributes:
    source: correct samples, or those taken for correct.
    share: of the regions that are flipped, 0..1.
    min_pixels: smaller regions are left alone.
    seed: of the draws.
  """

  source: Source
  share: float = 0.03
  min_pixels: int = 100
  seed: int = 0

  def __len__(self) -> int:
    return len(self.source)

  @property
  def names(self) -> tuple[str, ...]:
    return self.source.names

  def __getitem__(self, index: int) -> Sample:
    sample = self.source[index]
    return {**sample, "label": self.plant(sample["label"], index)[0]}

  def plant(self, label: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Flips regions of the label of sample `index`.

    Args:
      label: uint8 [H, W].
      index: of the sample, for the draws.

    Returns:
      (the flipped label; int32 [H, W], the number of the planted region from 1, and 0 elsewhere).
    """
    rng = np.random.default_rng((self.seed, index))
    classes = np.setdiff1d(label, [IGNORE])
    flipped, numbers, count = label.copy(), np.zeros(label.shape, np.int32), 0
    if len(classes) < 2:
      return flipped, numbers
    for region in regions(label, IGNORE, self.min_pixels):
      hit, wrong = rng.random() < self.share, rng.choice(classes[classes != region.value])
      if hit:
        count += 1
        flipped[region.box][region.mask] = wrong
        numbers[region.box][region.mask] = count
    return flipped, numbers


def struck(numbers: np.ndarray) -> int:
  """The planted region that more than half of a found region's pixels lie in, 0 for none.

  Args:
    numbers: of `PlantedSource.plant`, at the found region's pixels.
  """
  counts = np.bincount(numbers.ravel())
  number = int(counts.argmax())
  return number if 2 * counts[number] > numbers.size else 0
