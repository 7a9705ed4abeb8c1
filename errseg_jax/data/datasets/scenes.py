"""Generated street scenes: the data set that needs no download.

City, highway, park and harbour scenes whose classes share colours and textures, with thin poles,
look-alikes that only context tells apart (rider and person, wall and building, bus and truck, road
and pavement), soft outlines, occlusion, shadows and camera noise.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from errseg_jax.data.datasets.base import Dataset, Sample, Source
from errseg_jax.data.datasets.scene_layouts import LAYOUTS
from errseg_jax.data.datasets.scene_parts import CLASSES
from errseg_jax.data.datasets.scene_renderer import degrade, render
from errseg_jax.errors import UserError
from errseg_jax.structs import DatasetInfo

INFO = DatasetInfo(
  name="scenes",
  classes=CLASSES,
  palette=(
    (70, 130, 180),
    (70, 70, 70),
    (152, 96, 96),
    (190, 153, 153),
    (225, 225, 140),
    (250, 170, 30),
    (107, 142, 35),
    (152, 251, 152),
    (128, 64, 128),
    (244, 35, 232),
    (30, 80, 200),
    (220, 20, 60),
    (255, 110, 110),
    (119, 11, 32),
    (0, 0, 142),
    (0, 150, 160),
    (0, 220, 220),
  ),
)
_SPLITS = ("train", "choose", "val")
REMEMBERED = 2048  # images: 200 MB at the default size
REMEMBERED_PIXELS = 50_000  # of an image; larger ones are drawn anew, so at most 400 MB are held


@dataclasses.dataclass(frozen=True)
class SceneSource:
  """Sample i is a pure function of (seed, split, i).

  Attributes:
    split: one of train, choose, val.
    count: number of samples.
    height: of an image, pixels.
    width: of an image, pixels.
    seed: of the whole data set.
  """

  split: str
  count: int
  height: int
  width: int
  seed: int

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(self._name(index) for index in range(self.count))

  def _name(self, index: int) -> str:
    return f"{self.split}_{index:06d}"

  def __len__(self) -> int:
    return self.count

  def __getitem__(self, index: int) -> Sample:
    if not 0 <= index < self.count:
      raise IndexError(index)
    draw = _draw if self.height * self.width <= REMEMBERED_PIXELS else _draw.__wrapped__
    image, label = draw((self.seed, _SPLITS.index(self.split), index), self.height, self.width)
    return {"image": image, "label": label, "name": self._name(index)}


@functools.lru_cache(maxsize=REMEMBERED)
def _draw(key: tuple[int, int, int], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
  """Image and label, read-only; remembered, as an epoch of training would draw them all again."""
  rng = np.random.default_rng(key)
  parts = LAYOUTS[rng.integers(len(LAYOUTS))](rng)
  image, label = render(parts, height, width, rng)
  image = degrade(image, rng)
  image.flags.writeable = label.flags.writeable = False
  return image, label


@dataclasses.dataclass(frozen=True)
class Scenes(Dataset):
  """Generated street scenes in three splits of disjoint random streams.

  Attributes:
    num_train: images that the networks learn from.
    num_choose: images that thresholds and checkpoints are chosen on.
    num_val: images that results are reported on.
    height: of an image, pixels.
    width: of an image, pixels.
    seed: of the whole data set; another seed gives other images of the same kind.
  """

  num_train: int = 2000
  num_choose: int = 200
  num_val: int = 400
  height: int = 128
  width: int = 192
  seed: int = 0

  @property
  def info(self) -> DatasetInfo:
    return INFO

  def scan(self, split: str) -> tuple[Source, tuple[str, ...]]:
    if split not in _SPLITS:
      raise UserError(f"scenes: no split {split!r}; it must be one of {', '.join(_SPLITS)}")
    count = {"train": self.num_train, "choose": self.num_choose, "val": self.num_val}[split]
    if count < 1:
      raise UserError(f"scenes: split {split!r} is empty; set data.num_{split} to at least 1")
    if min(self.height, self.width) < 32 or self.width > 3 * self.height:
      raise UserError(
        f"scenes: {self.width}x{self.height} cannot be drawn; height and width must be at least 32 "
        "and the width at most 3 heights"
      )
    return SceneSource(split, count, self.height, self.width, self.seed), ()
