"""CamVid as its authors publish it (Brostow et al. 2008): 701 frames of 960x720, labels as colours of 32 classes."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from errseg_jax.data.datasets import camvid
from errseg_jax.data.datasets.base import (
  Dataset,
  FilePairs,
  existing_root,
  files_by_name,
  pair_source,
  with_labels,
)
from errseg_jax.data.images import read_image
from errseg_jax.errors import BadFile, UserError
from errseg_jax.structs import IGNORE, DatasetInfo

# Class, colour as in label_colors.txt, and the class of the SegNet form that it became, "" for none.
_TABLE = """
Animal 64 128 64 pedestrian|Archway 192 0 128 building|Bicyclist 0 128 192 bicyclist|Bridge 0 128 64 building
Building 128 0 0 building|Car 64 0 128 car|CartLuggagePram 64 0 192 pedestrian|Child 192 128 64 pedestrian
Column_Pole 192 192 128 pole|Fence 64 64 128 fence|LaneMkgsDriv 128 0 192 road|LaneMkgsNonDriv 192 0 64 road
Misc_Text 128 128 64 sign|MotorcycleScooter 192 0 192 bicyclist|OtherMoving 128 64 64 car
ParkingBlock 64 192 128 pavement|Pedestrian 64 64 0 pedestrian|Road 128 64 128 road|RoadShoulder 128 128 192 pavement
Sidewalk 0 0 192 pavement|SignSymbol 192 128 128 sign|Sky 128 128 128 sky|SUVPickupTruck 64 128 192 car
TrafficCone 0 0 64 pole|TrafficLight 0 64 64 sign|Train 192 64 128 car|Tree 128 128 0 tree
Truck_Bus 192 128 192 car|Tunnel 64 0 64 building|VegetationMisc 192 192 0 tree|Wall 64 192 0 building
"""
_ROWS = [entry.split() for entry in _TABLE.replace("\n", "|").split("|") if entry.strip()]
NAMES = tuple(name for name, *_ in _ROWS)
COLOURS = tuple((int(r), int(g), int(b)) for _, r, g, b, _ in _ROWS)
VOID = len(NAMES)  # the 32nd, black; what is left of the frames
ALL = DatasetInfo("camvid_original", tuple(name.lower() for name in NAMES), COLOURS)
ELEVEN = dataclasses.replace(camvid.INFO, name="camvid_original")
INFOS = {"eleven": ELEVEN, "all": ALL}
MAPS = {
  "eleven": (*((k, ELEVEN.classes.index(row[-1])) for k, row in enumerate(_ROWS)), (VOID, IGNORE)),
  "all": (*((k, k) for k in range(len(NAMES))), (VOID, IGNORE)),
}
PUBLISHED = {"train": 367, "val": 101, "test": 233}
_LAYOUT = "data.root must hold 701_StillsRaw_full and LabeledApproved_full"


def read_colours(path: str) -> np.ndarray:
  """A label's class numbers, in the order of `NAMES` and `VOID`, int32 [H, W].

  Raises:
    UserError: the file cannot be read, or holds a colour of no class.
  """
  colours = read_image(path).astype(np.int32) @ np.array([65536, 256, 1], np.int32)
  known = np.array([*COLOURS, (0, 0, 0)], np.int32) @ np.array([65536, 256, 1], np.int32)
  order = np.argsort(known)
  places = np.minimum(np.searchsorted(known[order], colours), len(known) - 1)
  wrong = known[order][places] != colours
  if wrong.any():
    value = int(colours[wrong][0])
    raise BadFile(
      "label_value",
      f"{path}: colour ({value >> 16}, {value >> 8 & 255}, {value & 255}) is of none of CamVid's classes; labels that "
      "were resized or saved as JPEG have such: take the files anew",
    )
  return order[places].astype(np.int32)


def split_of(name: str) -> str:
  """The split of SegNet's authors that a frame belongs to, "0016E5_07959" -> "val"; "" where it has no such name."""
  sequence, _, frame = name.partition("_")
  number = frame.removeprefix("f")
  if not number.isdecimal():
    return ""
  if sequence == "0016E5":
    return "val" if 7959 <= int(number) <= 8159 and int(number) % 2 else "train"
  if sequence == "0001TP":
    return "train" if int(number) <= 8520 else "test"
  return {"0006R0": "train", "Seq05VD": "test"}.get(sequence, "")


@dataclasses.dataclass(frozen=True)
class CamVidOriginal(Dataset):
  """Frames 701_StillsRaw_full/NAME.png, labels LabeledApproved_full/NAME_L.png, in the split of SegNet's authors.

  Attributes:
    root: the folder of both; empty takes the environment variable CAMVID_ORIGINAL.
    classes: "eleven", those of the SegNet form, or "all" 31; void is ignored in both.
    downscale: 2 halves width and height of every sample: 480x360, as the SegNet form is.
  """

  root: str = ""
  classes: str = "eleven"
  downscale: int = 1

  def __post_init__(self):
    if self.classes not in INFOS:
      raise UserError(f"data.classes={self.classes!r} must be one of {', '.join(INFOS)}")

  @property
  def info(self) -> DatasetInfo:
    return INFOS[self.classes]

  def published(self, split: str) -> int:
    return PUBLISHED.get(split, 0)

  def scan(self, split: str) -> tuple[FilePairs, tuple[str, ...]]:
    if split not in PUBLISHED:
      raise UserError(f"camvid_original: no split {split!r}; it must be one of {', '.join(PUBLISHED)}")
    root = existing_root(self.root, variable="CAMVID_ORIGINAL")
    images = files_by_name(root / "701_StillsRaw_full", ".png", _LAYOUT)
    labels = files_by_name(root / "LabeledApproved_full", "_L.png", _LAYOUT)
    own = {name: path for name, path in images.items() if split_of(name) == split}
    if not own:
      raise UserError(
        f"{root / '701_StillsRaw_full'}: holds no frame of {split!r}, as 0001TP_006690.png; {_LAYOUT}"
      )
    rows, problems = with_labels(own, labels, str(pathlib.Path(root) / "LabeledApproved_full" / "{}_L.png"))
    count = self.info.num_classes
    return pair_source(rows, count, MAPS[self.classes], downscale=self.downscale, read=read_colours), problems
