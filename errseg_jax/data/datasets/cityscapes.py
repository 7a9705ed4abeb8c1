"""Cityscapes (Cordts et al. 2016): 19 classes at 2048x1024; 2975 train and 500 val images with public labels."""

from __future__ import annotations

import dataclasses
import pathlib

from errseg_jax.data.datasets.base import (
  Dataset,
  FilePairs,
  existing_root,
  files_by_name,
  pair_source,
  with_labels,
)
from errseg_jax.data.label_values import REFUSED
from errseg_jax.errors import UserError
from errseg_jax.structs import IGNORE, DatasetInfo

# Of each class in the order of the train ids: name, label id, colour.
_CLASSES = (
  ("road", 7, (128, 64, 128)),
  ("sidewalk", 8, (244, 35, 232)),
  ("building", 11, (70, 70, 70)),
  ("wall", 12, (102, 102, 156)),
  ("fence", 13, (190, 153, 153)),
  ("pole", 17, (153, 153, 153)),
  ("traffic light", 19, (250, 170, 30)),
  ("traffic sign", 20, (220, 220, 0)),
  ("vegetation", 21, (107, 142, 35)),
  ("terrain", 22, (152, 251, 152)),
  ("sky", 23, (70, 130, 180)),
  ("person", 24, (220, 20, 60)),
  ("rider", 25, (255, 0, 0)),
  ("car", 26, (0, 0, 142)),
  ("truck", 27, (0, 0, 70)),
  ("bus", 28, (0, 60, 100)),
  ("train", 31, (0, 80, 100)),
  ("motorcycle", 32, (0, 0, 230)),
  ("bicycle", 33, (119, 11, 32)),
)
_NAMES, LABEL_IDS, _COLOURS = zip(*_CLASSES, strict=True)
INFO = DatasetInfo(name="cityscapes", classes=_NAMES, palette=_COLOURS)
PUBLISHED = {"train": 2975, "val": 500, "train_extra": 19998}
_LAST_ID = 33

# Files of label ids never hold 255, those of train ids nearly always do: 0..18 alone would pass for label ids.
_LABEL_MAPS = {
  "labelIds": (
    *((i, LABEL_IDS.index(i) if i in LABEL_IDS else IGNORE) for i in range(_LAST_ID + 1)),
    (IGNORE, REFUSED),
  ),
  "labelTrainIds": tuple((i, i) for i in range(len(_CLASSES))),
}
_ADVICE = {
  "labelIds": "is no Cityscapes label id (0..33); if the file holds train ids, set data.labels=labelTrainIds",
  "labelTrainIds": "is no train id (0..18 or 255); it looks like a label id: set data.labels=labelIds, which "
  "reads *_labelIds.png, or write the file anew with csCreateTrainIdLabelImgs",
}


@dataclasses.dataclass(frozen=True)
class Cityscapes(Dataset):
  """Images leftImg8bit/{split}/{city}/NAME_leftImg8bit.png, labels gtFine/{split}/{city}/NAME_gtFine_{labels}.png.

  Splits: train, val, and with coarse labels train_extra. The labels of test are not public.

  Attributes:
    root: the folder of leftImg8bit and gtFine; empty takes the environment variable CITYSCAPES_DATASET.
    labels: "labelIds", as downloaded, or "labelTrainIds", as the official tool writes them.
    fine: whether to take gtFine or gtCoarse.
  """

  root: str = ""
  labels: str = "labelIds"
  fine: bool = True

  @property
  def info(self) -> DatasetInfo:
    return INFO

  def published(self, split: str) -> int:
    return PUBLISHED.get(split, 0)

  def scan(self, split: str) -> tuple[FilePairs, tuple[str, ...]]:
    self._check(split)
    root = existing_root(self.root, variable="CITYSCAPES_DATASET")
    kind = "gtFine" if self.fine else "gtCoarse"
    images = _files(root / "leftImg8bit" / split, "leftImg8bit")
    labels = _files(root / kind / split, f"{kind}_{self.labels}")
    missing = f"{root / kind / split}/{{}}_{kind}_{self.labels}.png"
    rows, problems = with_labels(images, labels, missing)
    rows = [(name.rpartition("/")[2], image, label) for name, image, label in rows]
    return pair_source(rows, INFO.num_classes, _LABEL_MAPS[self.labels], _ADVICE[self.labels]), problems

  def _check(self, split: str) -> None:
    if self.labels not in _LABEL_MAPS:
      raise UserError(f"data.labels={self.labels!r} is unknown; it must be one of {', '.join(_LABEL_MAPS)}")
    if split == "test":
      raise UserError(
        "cityscapes: the labels of split 'test' are not public; evaluate on val, or label its images with "
        "`errseg predict`"
      )
    if split not in PUBLISHED:
      raise UserError(f"cityscapes: no split {split!r}; it must be one of {', '.join(PUBLISHED)}")
    if split == "train_extra" and self.fine:
      raise UserError("cityscapes: split 'train_extra' has coarse labels only; set data.fine=False")


def _files(folder: pathlib.Path, suffix: str) -> dict[str, pathlib.Path]:
  """File by CITY/NAME, in order.

  Raises:
    UserError: the folder is missing or holds no such file.
  """
  layout = f"data.root must hold {folder.parent.name}/{folder.name}/CITY/*_{suffix}.png"
  if suffix.endswith("TrainIds"):
    layout += "; csCreateTrainIdLabelImgs of cityscapesscripts writes them, or set data.labels=labelIds"
  return files_by_name(folder, f"_{suffix}.png", layout, below="*/")
