"""Copy-paste of rare classes (after Ghiasi et al., CVPR 2021): what few images show is shown by more."""

from __future__ import annotations

import dataclasses

import numpy as np

from errseg_jax.data.datasets.base import Sample, Source
from errseg_jax.data.frequencies import class_counts, counted_indices
from errseg_jax.data.regions import regions
from errseg_jax.data.scores import at_size
from errseg_jax.errors import UserError

MIN_PIXELS = 16  # of a region that is pasted


@dataclasses.dataclass(frozen=True)
class CopyPaste:
  """Pastes one connected region of a rare class from another image, anywhere, as large as it is there.

  Attributes:
    source: that other images come from.
    donors: for each class the indices of images that show it.
    chances: of each class to be the one that is pasted; they add up to 1.
    probability: that anything is pasted.
  """

  source: Source
  donors: tuple[tuple[int, ...], ...]
  chances: tuple[float, ...]
  probability: float

  def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
    """The sample with a region more, or as it is; the same `rng` state gives the same."""
    if rng.random() >= self.probability:
      return sample
    own = int(rng.choice(len(self.chances), p=self.chances))
    donor = self.source[int(rng.choice(self.donors[own]))]
    masked = np.where(donor["label"] == own, np.uint8(1), np.uint8(0))
    found = list(regions(masked, 0, MIN_PIXELS))
    if not found:
      return sample
    region = found[int(rng.integers(len(found)))]
    size, room = region.mask.shape, sample["label"].shape
    if size[0] > room[0] or size[1] > room[1]:
      return sample
    top, left = (int(rng.integers(r - s + 1)) for r, s in zip(room, size, strict=True))
    target = (slice(top, top + size[0]), slice(left, left + size[1]))
    image, label = sample["image"].copy(), sample["label"].copy()
    image[target][region.mask] = donor["image"][region.box][region.mask]
    label[target][region.mask] = own
    pasted = {**sample, "image": image, "label": label}
    if "scores" not in sample:
      return pasted
    scores = at_size(sample["scores"], room).copy()
    scores[target][region.mask] = at_size(donor["scores"], donor["label"].shape)[region.box][region.mask]
    return {**pasted, "scores": scores}


def copy_paste(source: Source, num_classes: int, probability: float) -> CopyPaste:
  """Of a training source: a class is pasted the more often the fewer images show it.

  Args:
    source: random-access samples; at most 500 are read to see what they show.
    num_classes: C.
    probability: 0..1.

  Raises:
    UserError: the probability is none, a sample cannot be read, or no image shows a class.
  """
  if not 0 < probability <= 1:
    raise UserError(f"transform.copy_paste={probability} must be 0 (off) to 1")
  indices = counted_indices(source)
  shown = class_counts(source, num_classes) >= MIN_PIXELS
  counts = shown.sum(0)
  if not counts.any():
    raise UserError(
      f"transform.copy_paste={probability}: no training image shows {MIN_PIXELS} pixels of a class"
    )
  rarity = np.where(counts > 0, 1 / np.maximum(counts, 1), 0.0)
  donors = tuple(tuple(indices[shown[:, k]].tolist()) for k in range(num_classes))
  return CopyPaste(source, donors, tuple((rarity / rarity.sum()).tolist()), probability)
