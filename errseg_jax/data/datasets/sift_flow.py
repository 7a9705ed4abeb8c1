"""SIFT Flow (Liu et al. 2009): 256x256 outdoor scenes, 2486 train and 200 test, labelled twice: 33 classes and 3."""

from __future__ import annotations

import dataclasses
import pathlib

from errseg_jax.data.datasets.base import (
  Dataset,
  FilePairs,
  existing_root,
  files_by_name,
  pair_source,
  voc_palette,
  with_labels,
)
from errseg_jax.data.label_files import read_mat
from errseg_jax.data.label_values import REFUSED
from errseg_jax.errors import UserError
from errseg_jax.structs import IGNORE, DatasetInfo

_CLASSES = """
awning balcony bird boat bridge building bus car cow crosswalk desert door fence field grass moon mountain person plant
pole river road rock sand sea sidewalk sign sky staircase streetlight sun tree window
"""
SEMANTIC = DatasetInfo(
  name="sift_flow",
  classes=tuple(_CLASSES.split()),
  palette=voc_palette(33),
  absent=("cow", "desert", "moon"),
)
GEOMETRIC = DatasetInfo(
  name="sift_flow",
  classes=("sky", "horizontal", "vertical"),
  palette=((128, 128, 128), (128, 64, 128), (128, 0, 0)),
)
# Of a task: what its labels mean, and their folder.
_TASKS = {"semantic": (SEMANTIC, "SemanticLabels"), "geometric": (GEOMETRIC, "GeoLabels")}
PUBLISHED = {"train": 2486, "test": 200}
_TEST_LIST = "TestSet1.txt"
_FOLDER = "spatial_envelope_256x256_static_8outdoorcategories"
# Of the 2688 images these two were never annotated; they count in no published result.
_UNANNOTATED = frozenset({"highway_bost181", "street_urb506"})


@dataclasses.dataclass(frozen=True)
class SIFTFlow(Dataset):
  """Images Images/FOLDER/NAME.jpg, labels {SemanticLabels,GeoLabels}/FOLDER/NAME.mat, the matrix S of each.

  FOLDER is spatial_envelope_256x256_static_8outdoorcategories. 0 is void, and -1 in GeoLabels; classes start at 1.
  Splits: test, the images of TestSet1.txt, and train, all others.

  Attributes:
    root: the folder SiftFlowDataset; empty takes the environment variable SIFT_FLOW.
    task: "semantic", 33 classes, or "geometric": sky, horizontal, vertical.
  """

  root: str = ""
  task: str = "semantic"

  @property
  def info(self) -> DatasetInfo:
    return self._task()[0]

  def published(self, split: str) -> int:
    return PUBLISHED.get(split, 0)

  def scan(self, split: str) -> tuple[FilePairs, tuple[str, ...]]:
    info, kind = self._task()
    if split not in PUBLISHED:
      raise UserError(f"sift_flow: no split {split!r}; it must be one of {', '.join(PUBLISHED)}")
    root = existing_root(self.root, variable="SIFT_FLOW")
    images = _files(root / "Images" / _FOLDER, ".jpg")
    folder = root / kind / _FOLDER
    labels = _files(folder, ".mat")
    test, problems = _test_names(root / _TEST_LIST, images)
    own = {name: path for name, path in images.items() if (name in test) == (split == "test")}
    for name in _UNANNOTATED:
      own.pop(name, None)
    if not own:
      raise UserError(f"{root}: split {split!r} is empty: see {_TEST_LIST}, which parts the images")
    rows, more = with_labels(own, labels, f"{folder}/{{}}.mat")
    source = pair_source(rows, info.num_classes, _label_map(info), _advice(info), read=read_mat)
    return source, (*problems, *more)

  def _task(self) -> tuple[DatasetInfo, str]:
    if self.task not in _TASKS:
      raise UserError(f"data.task={self.task!r} is unknown; it must be one of {', '.join(_TASKS)}")
    return _TASKS[self.task]


def _label_map(info: DatasetInfo) -> tuple[tuple[int, int], ...]:
  void = ((0, IGNORE), (-1, IGNORE)) if info is GEOMETRIC else ((0, IGNORE),)
  return (*void, *((i + 1, i) for i in range(info.num_classes)), (IGNORE, REFUSED))


def _advice(info: DatasetInfo) -> str:
  return (
    f"is none of the {info.num_classes} classes (1..{info.num_classes}, 0 = void); take the data set's own .mat "
    "files, and look at data.task"
  )


def _test_names(path: pathlib.Path, images: dict[str, pathlib.Path]) -> tuple[set[str], tuple[str, ...]]:
  """Names of the test images, and a problem per line that names none: it may be an image that train must not see.

  Lines are FOLDER\\NAME.jpg as published; any folder, separator and suffix are taken.

  Raises:
    UserError: the list is missing or names no image.
  """
  if not path.is_file():
    raise UserError(f"{path}: no such list file; it comes with the data set and names the test images")
  names, problems = set(), []
  for number, line in enumerate(path.read_text("utf-8-sig", errors="replace").splitlines(), start=1):
    name = pathlib.PureWindowsPath(line.strip()).stem
    if name in images:
      names.add(name)
    elif name:
      problems.append(f"{path}:{number}: {line.strip()!r} is not among the images; fix the line or data.root")
  if not names:
    raise UserError(
      problems[0] if problems else f"{path}: is empty; take it anew from the data set's archive"
    )
  return names, tuple(problems)


def _files(folder: pathlib.Path, suffix: str) -> dict[str, pathlib.Path]:
  layout = f"data.root must be SiftFlowDataset, which holds {folder.parent.name}/{_FOLDER}/*{suffix}"
  return files_by_name(folder, suffix, layout)
