"""CamVid in the SegNet split: 367 train, 101 val, 233 test, 11 classes at 480x360."""

from __future__ import annotations

import dataclasses
import pathlib

from errseg_jax.data.datasets.base import Dataset, FilePairs, existing_root, pair_source
from errseg_jax.data.datasets.listing import read_list
from errseg_jax.structs import IGNORE, DatasetInfo

INFO = DatasetInfo(
  name="camvid",
  classes=(
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
  ),
  palette=(
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (60, 40, 222),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
  ),
)
_UNLABELLED = 11
_LABEL_MAP = (*((i, i) for i in range(INFO.num_classes)), (_UNLABELLED, IGNORE))


@dataclasses.dataclass(frozen=True)
class CamVid(Dataset):
  """CamVid: `{split}.txt` lists `{split}/NAME` and `{split}annot/NAME`.

  Attributes:
    root: the folder of the list files; empty takes the environment variable CAMVID.
    downscale: 2 halves width and height of every sample.
  """

  root: str = ""
  downscale: int = 1

  @property
  def info(self) -> DatasetInfo:
    return INFO

  def scan(self, split: str) -> tuple[FilePairs, tuple[str, ...]]:
    root = existing_root(self.root, variable="CAMVID")

    def resolve(entry: str) -> pathlib.Path:
      # Public copies list /SegNet/CamVid/train/NAME.png, a path of their author's machine.
      return root.joinpath(*pathlib.PurePosixPath(entry).parts[-2:])

    rows, problems = read_list(root / f"{split}.txt", resolve)
    return pair_source(rows, INFO.num_classes, _LABEL_MAP, downscale=self.downscale), problems
