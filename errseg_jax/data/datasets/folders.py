"""Your own data as two folders a split: images/{split}/NAME.jpg and labels/{split}/NAME.png."""

from __future__ import annotations

import dataclasses
import pathlib

from errseg_jax.data.datasets.base import (
  Dataset,
  FilePairs,
  LabelMap,
  existing_root,
  frozen_label_map,
  named_classes,
  pair_source,
)
from errseg_jax.data.images import IMAGE_SUFFIXES
from errseg_jax.errors import UserError
from errseg_jax.structs import DatasetInfo


@dataclasses.dataclass(frozen=True)
class Folders(Dataset):
  """A folder of images and one of labels, paired by file stem.

  Attributes:
    root: the folder that holds `images` and `labels`.
    num_classes: C, or 0 to count `class_names`.
    class_names: C names, or none to number the classes.
    label_map: stored label value -> train id or 255; empty means that labels are train ids.
    downscale: 2 halves width and height of every sample.
  """

  root: str = ""
  num_classes: int = 0
  class_names: tuple[str, ...] = ()
  label_map: LabelMap = ()
  downscale: int = 1

  @property
  def info(self) -> DatasetInfo:
    return named_classes("folders", self.num_classes, self.class_names)

  def scan(self, split: str) -> tuple[FilePairs, tuple[str, ...]]:
    root, classes = existing_root(self.root), self.info.num_classes
    images, problems = _by_stem(root / "images" / split, IMAGE_SUFFIXES)
    labels, more = _by_stem(root / "labels" / split, (".png",))
    problems += more
    problems += [
      f"{images[stem]}: has no label; add {root / 'labels' / split / stem}.png or remove the image"
      for stem in sorted(images.keys() - labels.keys())
    ]
    problems += [
      f"{labels[stem]}: has no image in {root / 'images' / split}; add it or remove the label"
      for stem in sorted(labels.keys() - images.keys())
    ]
    rows = [(stem, images[stem], labels[stem]) for stem in sorted(images.keys() & labels.keys())]
    if not rows:
      raise UserError(problems[0])
    label_map = frozen_label_map(self.label_map, classes)
    source = pair_source(rows, classes, label_map, downscale=self.downscale)
    return source, tuple(problems)


def _by_stem(folder: pathlib.Path, suffixes: tuple[str, ...]) -> tuple[dict[str, pathlib.Path], list[str]]:
  """The folder's files by stem, and a problem per stem that occurs twice.

  Raises:
    UserError: the folder is missing or holds no such file.
  """
  if not folder.is_dir():
    raise UserError(f"{folder}: no such folder; check data.root and the split's name")
  files: dict[str, pathlib.Path] = {}
  problems = []
  for path in sorted(folder.iterdir()):
    # Archives made on a Mac hold "._NAME.png" beside each file.
    if path.suffix.lower() not in suffixes or path.name.startswith("."):
      continue
    if path.stem in files:
      problems.append(f"{path}: {files[path.stem].name} has the same stem; rename or remove one")
    files.setdefault(path.stem, path)
  if not files:
    raise UserError(f"{folder}: holds no {', '.join(suffixes)} file; put the split's files there")
  return files, problems
