"""COCO 2017 (Lin et al. 2014): 118287 train and 5000 val images by the maps of COCO-Stuff (Caesar et al. 2018)."""

from __future__ import annotations

import dataclasses

from errseg_jax.data.datasets import coco_json, voc
from errseg_jax.data.datasets.base import (
  Dataset,
  Source,
  existing_root,
  files_by_name,
  pair_source,
  voc_palette,
  with_labels,
)
from errseg_jax.data.label_values import REFUSED
from errseg_jax.errors import UserError
from errseg_jax.structs import DatasetInfo

# The 80 things in the order of their ids, which count from 1 and leave out _GAPS.
_THINGS = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, parking
meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie,
suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis
racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog,
pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, cell
phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush
"""
THINGS = tuple(" ".join(name.split()) for name in _THINGS.split(","))
_GAPS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91})
_IDS = tuple(i for i in range(1, 91) if i not in _GAPS)
_LAST = 181  # stored values are ids - 1: things 0..89, stuff 91..181; 255 is unlabelled
_VOC_NAMES = {
  "airplane": "aeroplane",
  "motorcycle": "motorbike",
  "couch": "sofa",
  "potted plant": "pottedplant",
  "dining table": "diningtable",
  "tv": "tvmonitor",
}
INFOS = {
  "things": DatasetInfo("coco", ("background", *THINGS), voc_palette(81)),
  "voc": DatasetInfo("coco", voc.INFO.classes, voc.INFO.palette),
}
"""Class spaces by name: background and the 80 things, or the 21 classes of VOC, other things being background."""
ANNOTATIONS = ("stuffthingmaps", "panoptic", "instances")
_LAST_PANOPTIC = 200  # id of the last of panoptic's merged stuff
PUBLISHED = {"train2017": 118_287, "val2017": 5000}
_ADVICE = (
  "is no value of the pixel maps (0..181, 255 = unlabelled); take the files of stuffthingmaps_trainval2017"
)


@dataclasses.dataclass(frozen=True)
class COCO(Dataset):
  """Images {split}/NAME.jpg and one of three kinds of annotation.

  Splits: train2017, val2017. Stuff is background.

  Attributes:
    root: the folder of train2017 and of the annotations; empty takes the environment variable COCO.
    classes: "things", background and 80 classes, or "voc", the 21 classes of PASCAL VOC.
    annotations: "stuffthingmaps", PNGs as stuffthingmaps_trainval2017.zip has them; "panoptic" and "instances", COCO's
      own in the folder annotations.
  """

  root: str = ""
  classes: str = "things"
  annotations: str = "stuffthingmaps"

  @property
  def info(self) -> DatasetInfo:
    if self.classes not in INFOS:
      raise UserError(f"data.classes={self.classes!r} is unknown; it must be one of {', '.join(INFOS)}")
    return INFOS[self.classes]

  def published(self, split: str) -> int:
    return PUBLISHED.get(split, 0)

  def scan(self, split: str) -> tuple[Source, tuple[str, ...]]:
    info = self.info
    if self.annotations not in ANNOTATIONS:
      raise UserError(f"data.annotations={self.annotations!r} must be one of {', '.join(ANNOTATIONS)}")
    if split not in PUBLISHED:
      raise UserError(f"coco: no split {split!r}; it must be one of {', '.join(PUBLISHED)}")
    root = existing_root(self.root, variable="COCO")
    layout = f"data.root must hold {split}/*.jpg and stuffthingmaps/{split}/*.png"
    if self.annotations != "stuffthingmaps":
      images = files_by_name(root / split, ".jpg", f"data.root must hold {split}/*.jpg and annotations")
      path = root / "annotations" / f"{self.annotations}_{split}.json"
      class_of = {value + 1: train_id for value, train_id in label_map(info.classes)}
      class_of |= dict.fromkeys(range(_LAST + 2, _LAST_PANOPTIC + 1), 0)
      return coco_json.source(self.annotations, path, images, class_of)
    images = files_by_name(root / split, ".jpg", layout)
    folder = root / "stuffthingmaps" / split
    rows, problems = with_labels(images, files_by_name(folder, ".png", layout), f"{folder}/{{}}.png")
    return pair_source(rows, info.num_classes, label_map(info.classes), _ADVICE), problems


def label_map(classes: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
  """Stored value -> index into `classes`; 0, background, of what has no class there."""
  things = {number - 1: name for number, name in zip(_IDS, THINGS, strict=True)}
  train_ids = {name: i for i, name in enumerate(classes)}

  def train_id(value: int) -> int:
    if value + 1 in _GAPS:
      return REFUSED
    name = things.get(value, "background")
    return train_ids.get(name, train_ids.get(_VOC_NAMES.get(name, name), 0))

  return tuple((value, train_id(value)) for value in range(_LAST + 1))
