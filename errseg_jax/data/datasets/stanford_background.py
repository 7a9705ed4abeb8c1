"""Stanford Background (Gould et al. 2009): 715 outdoor scenes of about 320x240, 8 classes and 3 surfaces, in folds."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterable

import numpy as np

from errseg_jax.data.datasets.base import (
  Dataset,
  FilePairs,
  existing_root,
  files_by_name,
  pair_source,
  with_labels,
)
from errseg_jax.data.label_files import read_grid
from errseg_jax.data.label_values import REFUSED
from errseg_jax.errors import UserError
from errseg_jax.structs import IGNORE, DatasetInfo

# Of a task: what its labels mean.
_TASKS = {
  "regions": DatasetInfo(
    name="stanford_background",
    classes=("sky", "tree", "road", "grass", "water", "building", "mountain", "foreground object"),
    palette=(
      (128, 128, 128),
      (128, 128, 0),
      (128, 64, 128),
      (0, 128, 0),
      (0, 0, 128),
      (128, 0, 0),
      (128, 80, 0),
      (255, 128, 0),
    ),
  ),
  "surfaces": DatasetInfo(
    name="stanford_background",
    classes=("sky", "horizontal", "vertical"),
    palette=((128, 128, 128), (128, 64, 128), (128, 0, 0)),
  ),
}
PUBLISHED = 715
_UNKNOWN = -1
_SPLITS = ("train", "test")


@dataclasses.dataclass(frozen=True)
class StanfordBackground(Dataset):
  """Images images/NAME.jpg, labels labels/NAME.{regions,surfaces}.txt: a line of numbers for each row, -1 = unknown.

  It was published without a split, to be cross-validated. Splits: test, one fold, and train, the others. A fold
  depends on the seed and the images' names alone.

  Attributes:
    root: the folder iccv09Data; empty takes the environment variable STANFORD_BACKGROUND.
    task: "regions", 8 classes, or "surfaces": sky, horizontal, vertical.
    folds: that the images are parted into, 2 or more.
    fold: that is test, 0..folds-1.
    seed: of the parting.
  """

  root: str = ""
  task: str = "regions"
  folds: int = 5
  fold: int = 0
  seed: int = 0

  @property
  def info(self) -> DatasetInfo:
    if self.task not in _TASKS:
      raise UserError(f"data.task={self.task!r} is unknown; it must be one of {', '.join(_TASKS)}")
    return _TASKS[self.task]

  def published(self, split: str) -> int:
    test = len(range(PUBLISHED)[self.fold :: self.folds])
    return {"train": PUBLISHED - test, "test": test}.get(split, 0)

  def scan(self, split: str) -> tuple[FilePairs, tuple[str, ...]]:
    info = self.info
    if split not in _SPLITS:
      raise UserError(f"stanford_background: no split {split!r}; it must be one of {', '.join(_SPLITS)}")
    root = existing_root(self.root, variable="STANFORD_BACKGROUND")
    images = _files(root / "images", ".jpg")
    labels = _files(root / "labels", f".{self.task}.txt")
    test = self._test(images)
    own = {name: path for name, path in images.items() if (name in test) == (split == "test")}
    rows, problems = with_labels(own, labels, f"{root}/labels/{{}}.{self.task}.txt")
    count = info.num_classes
    label_map = ((_UNKNOWN, IGNORE), *((i, i) for i in range(count)), (IGNORE, REFUSED))
    advice = (
      f"is none of the {count} {self.task} (0..{count - 1}, -1 = unknown); take the data set's own labels"
    )
    return pair_source(rows, count, label_map, advice, read=read_grid), problems

  def _test(self, names: Iterable[str]) -> frozenset[str]:
    """The names of the fold that is test.

    The order is that of a hash: numpy's permutations may change with its version.
    """

    def key(name: str) -> bytes:
      return hashlib.sha256(f"{self.seed} {name}".encode()).digest()

    order = sorted(names, key=key)
    if not 2 <= self.folds <= len(order):
      raise UserError(f"data.folds={self.folds} must be at least 2 and at most the {len(order)} images")
    if not 0 <= self.fold < self.folds:
      raise UserError(f"data.fold={self.fold} must be one of 0..{self.folds - 1} (data.folds={self.folds})")
    return frozenset(order[self.fold :: self.folds])


def read_layers(path: str | os.PathLike[str]) -> np.ndarray:
  """Reads labels/NAME.layers.txt: which pixels belong to one region of the image, by numbers that name no class.

  Args:
    path: the file.

  Returns:
    int32 [H, W], an id per region, of this image alone; negative is unknown.

  Raises:
    UserError: as `read_grid`.
  """
  return read_grid(path)


def _files(folder: pathlib.Path, suffix: str) -> dict[str, pathlib.Path]:
  layout = f"data.root must be iccv09Data, which holds {folder.name}/*{suffix}"
  return files_by_name(folder, suffix, layout)
