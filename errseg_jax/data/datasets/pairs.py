"""Your own data as a list of image and label files per split."""

from __future__ import annotations

import dataclasses

from errseg_jax.data.datasets.base import (
  Dataset,
  FilePairs,
  LabelMap,
  existing_root,
  frozen_label_map,
  named_classes,
  pair_source,
)
from errseg_jax.data.datasets.listing import read_list
from errseg_jax.structs import DatasetInfo


@dataclasses.dataclass(frozen=True)
class Pairs(Dataset):
  """List files under one root.

  Attributes:
    root: the folder that the list files, and the paths in them, are relative to.
    list_file: a split's list, "{split}" standing for its name; lines are "image label".
    num_classes: C, or 0 to count `class_names`.
    class_names: C names, or none to number the classes.
    label_map: stored label value -> train id or 255; empty means that labels are train ids.
  """

  root: str = ""
  list_file: str = "{split}.txt"
  num_classes: int = 0
  class_names: tuple[str, ...] = ()
  label_map: LabelMap = ()

  @property
  def info(self) -> DatasetInfo:
    return named_classes("pairs", self.num_classes, self.class_names)

  def scan(self, split: str) -> tuple[FilePairs, tuple[str, ...]]:
    root, classes = existing_root(self.root), self.info.num_classes
    list_file = root / self.list_file.replace("{split}", split)
    rows, problems = read_list(list_file, root.joinpath)
    return pair_source(rows, classes, frozen_label_map(self.label_map, classes)), problems
