"""PASCAL VOC 2012 segmentation (Everingham et al. 2015): 20 classes and background, 1464 train and 1449 val images.

The split trainaug adds the images that Hariharan et al. (ICCV 2011, SBD) annotated: 10582.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib

import numpy as np

from errseg_jax.data.datasets.base import (
  Dataset,
  FilePairs,
  existing_root,
  files_by_name,
  pair_source,
  voc_palette,
)
from errseg_jax.data.images import read_label
from errseg_jax.data.label_files import read_mat
from errseg_jax.errors import UserError
from errseg_jax.structs import DatasetInfo

_CLASSES = """
background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant
sheep sofa train tvmonitor
"""
INFO = DatasetInfo(name="voc", classes=tuple(_CLASSES.split()), palette=voc_palette(21))
PUBLISHED = {"train": 1464, "val": 1449, "trainval": 2913, "trainaug": 10582}
# Border pixels are 255, which is ignored everywhere.
_LABEL_MAP = tuple((i, i) for i in range(INFO.num_classes))
_ADVICE = (
  "is no class of PASCAL VOC (0..20, 255 = border); are these SegmentationObject's instances, or RGB colours?"
)


@dataclasses.dataclass(frozen=True)
class VOC(Dataset):
  """Images JPEGImages/NAME.jpg, labels SegmentationClass/NAME.png, names in ImageSets/Segmentation/{split}.txt.

  Splits: train, val, trainval, and trainaug, whose labels are SegmentationClassAug/NAME.png, or are taken from SBD.

  Attributes:
    root: the folder VOCdevkit/VOC2012; empty takes the environment variable VOC2012.
    sbd: the folder benchmark_RELEASE/dataset of SBD, for trainaug without SegmentationClassAug; empty takes the
      environment variable SBD.
  """

  root: str = ""
  sbd: str = ""

  @property
  def info(self) -> DatasetInfo:
    return INFO

  def published(self, split: str) -> int:
    return PUBLISHED.get(split, 0)

  def scan(self, split: str) -> tuple[FilePairs, tuple[str, ...]]:
    if split not in PUBLISHED:
      raise UserError(f"voc: no split {split!r} with labels; it must be one of {', '.join(PUBLISHED)}")
    root = existing_root(self.root, variable="VOC2012")
    if (
      split == "trainaug"
      and not (root / "SegmentationClassAug").is_dir()
      and (self.sbd or "SBD" in os.environ)
    ):
      return self._with_sbd(root)
    folder = "SegmentationClassAug" if split == "trainaug" else "SegmentationClass"
    images, labels = _files(root / "JPEGImages", ".jpg"), _files(root / folder, ".png")
    path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    rows, problems = [], []
    for number, name in _names(path):
      missing = [
        f"{root / place}/{name}{suffix}"
        for place, suffix, files in (("JPEGImages", ".jpg", images), (folder, ".png", labels))
        if name not in files
      ]
      if missing:
        problems.append(f"{path}:{number}: {missing[0]} does not exist; add the file or remove the line")
      else:
        rows.append((name, images[name], labels[name]))
    if not rows:
      raise UserError(problems[0] if problems else f"{path}: is empty; list the split's images in it")
    return pair_source(rows, INFO.num_classes, _LABEL_MAP, _ADVICE), tuple(problems)

  def _with_sbd(self, root: pathlib.Path) -> tuple[FilePairs, tuple[str, ...]]:
    """trainaug: VOC's train as VOC labels it, and all images of SBD that are neither there nor in VOC's val."""
    sbd = existing_root(self.sbd, variable="SBD", key="data.sbd")
    lists = root / "ImageSets" / "Segmentation"
    train, val = ({name for _, name in _names(lists / f"{split}.txt")} for split in ("train", "val"))
    more = {name for split in ("train", "val") for _, name in _names(sbd / f"{split}.txt")} - train - val
    images, labels = _files(root / "JPEGImages", ".jpg"), _files(root / "SegmentationClass", ".png")
    annotated = files_by_name(
      sbd / "cls", ".mat", "data.sbd must be benchmark_RELEASE/dataset, which holds cls/*.mat"
    )
    chosen = {name: labels[name] for name in train if name in labels}
    chosen |= {name: annotated[name] for name in more if name in annotated}
    problems = [
      f"{root}: {name} of trainaug lacks its {'image' if name in chosen else 'label'}; add it"
      for name in sorted(train | more)
      if name not in chosen or name not in images
    ]
    rows = [(name, images[name], chosen[name]) for name in sorted(chosen) if name in images]
    if not rows:
      raise UserError(problems[0])
    return pair_source(rows, INFO.num_classes, _LABEL_MAP, _ADVICE, read=read_voc_or_sbd), tuple(problems)


def read_voc_or_sbd(path: str) -> np.ndarray:
  """A label of either: VOC's PNG, or the class map in SBD's GTcls.mat."""
  return read_mat(path, "GTcls", "Segmentation") if path.endswith(".mat") else read_label(path)


def _names(path: pathlib.Path) -> list[tuple[int, str]]:
  """(line number, name) of a list; a line may also be "/JPEGImages/NAME.jpg /SegmentationClassAug/NAME.png".

  Raises:
    UserError: the list is missing.
  """
  if not path.is_file():
    hint = ", or name SBD's folder as data.sbd" if path.stem == "trainaug" else ""
    raise UserError(f"{path}: no such list file; data.root must be VOCdevkit/VOC2012{hint}")
  lines = enumerate(path.read_text("utf-8-sig", errors="replace").splitlines(), start=1)
  return [(number, pathlib.PurePosixPath(line.split()[0]).stem) for number, line in lines if line.split()]


def _files(folder: pathlib.Path, suffix: str) -> dict[str, pathlib.Path]:
  layout = f"data.root must be VOCdevkit/VOC2012, which holds {folder.name}/*{suffix}"
  if folder.name == "SegmentationClassAug":
    layout += ": the labels of VOC and SBD together, as class ids; or name SBD's folder as data.sbd"
  return files_by_name(folder, suffix, layout)
