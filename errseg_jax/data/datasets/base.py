"""What every data set is: class information, and a random-access source of samples per split.

A sample is {"image": uint8 [H, W, 3] RGB, "label": uint8 [H, W], "name": str}. The label holds
train ids 0..C-1 and 255 = ignore. Reading a sample checks it; a bad sample raises, never vanishes.
"""

from __future__ import annotations

import abc
import collections
import dataclasses
import json
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import cv2
import numpy as np

from errseg_jax.data.images import read_image, read_label, shrink_image
from errseg_jax.data.label_values import LabelValues
from errseg_jax.errors import BadFile, UserError
from errseg_jax.structs import IGNORE, DatasetInfo

log = logging.getLogger("errseg")

Sample = dict[str, Any]
PLACES = ("root", "sbd")
"""Fields of data sets that say where files lie."""
LabelMap = Mapping[int, int] | Iterable[tuple[int, int]]


class Source(Protocol):
  """A picklable random-access sequence of samples, for `grain.MapDataset.source`.

  One that reads files has `images`, the path of each sample's image, and `files(index)`, the paths of all that a sample
  is read from.
  """

  @property
  def names(self) -> tuple[str, ...]:
    """One name per sample, unique in the split, without a suffix."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Sample: ...


class Dataset(abc.ABC):
  """A data set; its fields are the keys of a config's data section."""

  @property
  @abc.abstractmethod
  def info(self) -> DatasetInfo:
    """Class names and palette."""

  @abc.abstractmethod
  def scan(self, split: str) -> tuple[Source, tuple[str, ...]]:
    """The readable samples of a split, and one line per file that has no counterpart.

    Raises:
      UserError: the split does not exist or holds nothing.
    """

  def settings(self) -> dict[str, Any]:
    """What of its fields decides what its samples are, in JSON's types: all but the names of places."""
    fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in PLACES}  # type: ignore[arg-type]
    maps = {k: sorted(v.items()) if isinstance(v, Mapping) else v for k, v in fields.items()}
    return json.loads(json.dumps({"name": self.info.name, **maps}))

  def published(self, split: str) -> int:
    """Number of images that the split was published with; 0 where there is no such number."""
    del split
    return 0

  def incomplete(self, split: str, found: int) -> str:
    """A line that says so where `found` samples are not as many as were published, else ""."""
    wanted = self.published(split)
    if wanted in (0, found):
      return ""
    return f"{self.info.name} {split}: found {found} of {wanted} published images"

  def source(self, split: str) -> Source:
    """The samples of a split; logs a warning where there are not as many as were published.

    Raises:
      UserError: the split is missing or empty, or any file of it has no counterpart.
    """
    source, problems = self.scan(split)
    problems += repeats(source, split)
    if line := self.incomplete(split, len(source)):
      log.warning(line)
    if problems:
      more = f" (and {len(problems) - 1} more, see `errseg data check`)" if problems[1:] else ""
      raise UserError(problems[0] + more)
    return source


def repeats(source: Source, split: str) -> tuple[str, ...]:
  """A line for each name that several samples have: a list that names an image twice, or folders that were joined."""
  if len(set(source.names)) == len(source):
    return ()
  counts = collections.Counter(source.names)
  return tuple(
    f"{split}: {count} samples are named {name}; take all but one out of the list, or rename them"
    for name, count in counts.items()
    if count > 1
  )


@dataclasses.dataclass(frozen=True)
class FilePairs:
  """Samples read from (image, label) files.

  Attributes:
    names: one per sample.
    images: paths, one per sample.
    labels: paths, one per sample.
    num_classes: C.
    label_map: stored value -> train id, or REFUSED; () keeps values. 255 maps to itself unless it is listed.
    advice: what a label value that is not in the map means; set where the map is the data set's own.
    downscale: the samples are that many times smaller than the files, in width and height.
    read: label path -> stored values, uint8 or int32 [H, W]; a module's function, so that sources can be pickled.
  """

  names: tuple[str, ...]
  images: tuple[str, ...]
  labels: tuple[str, ...]
  num_classes: int
  label_map: tuple[tuple[int, int], ...] = ()
  advice: str = ""
  downscale: int = 1
  read: Callable[[str], np.ndarray] = read_label

  def __post_init__(self):
    if self.downscale < 1:
      raise UserError(f"data.downscale={self.downscale} must be 1 (as the files are) or more")

  def __len__(self) -> int:
    return len(self.names)

  def files(self, index: int) -> tuple[str, ...]:
    """That a sample is read from."""
    return self.images[index], self.labels[index]

  def __getitem__(self, index: int) -> Sample:
    path = self.labels[index]
    image, stored = read_image(self.images[index]), self.read(path)
    if image.shape[:2] != stored.shape:
      raise BadFile(
        "size",
        f"{path}: label is {_size(stored)} but {self.images[index]} is {_size(image)} (width x "
        "height); resize the label with nearest neighbour or fix the pairing",
      )
    label = LabelValues(self.num_classes, self.label_map, self.advice).train_ids(stored, path)
    image, label = shrink(image, label, self.downscale)
    return {"image": image, "label": label, "name": self.names[index]}


def shrink(image: np.ndarray, label: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
  """Image [H, W, 3] by area mean and label [H, W] by nearest neighbour, both `factor` times smaller, rounded down."""
  if factor == 1:
    return image, label
  small = shrink_image(image, factor)
  size = small.shape[1::-1]
  return small, cv2.resize(label, size, interpolation=cv2.INTER_NEAREST_EXACT)


def _size(array: np.ndarray) -> str:
  return f"{array.shape[1]}x{array.shape[0]}"


def pair_source(
  rows: Iterable[tuple[str, pathlib.Path, pathlib.Path]],
  num_classes: int,
  label_map: tuple[tuple[int, int], ...] = (),
  advice: str = "",
  downscale: int = 1,
  read: Callable[[str], np.ndarray] = read_label,
) -> FilePairs:
  """A source from (name, image path, label path) rows."""
  names, images, labels = zip(*rows, strict=True)
  paths = tuple(map(str, images)), tuple(map(str, labels))
  return FilePairs(names, *paths, num_classes, label_map, advice, downscale, read)


def files_by_name(folder: pathlib.Path, suffix: str, layout: str, below: str = "") -> dict[str, pathlib.Path]:
  """The folder's files by their name without `suffix`, in order.

  Args:
    folder: that holds them.
    suffix: of the files that are meant.
    layout: what data.root must be, for the messages.
    below: "*/" where they lie in folders of it; their names are then FOLDER/NAME.

  Raises:
    UserError: the folder is missing or holds no such file.
  """
  if not folder.is_dir():
    raise UserError(f"{folder}: no such folder; {layout}")
  # Archives made on a Mac hold "._NAME.png" beside each file.
  paths = [path for path in sorted(folder.glob(f"{below}*{suffix}")) if not path.name.startswith(".")]
  if not paths:
    raise UserError(f"{folder}: holds no {below}*{suffix}; {layout}")
  return {path.relative_to(folder).as_posix().removesuffix(suffix): path for path in paths}


def with_labels(
  images: Mapping[str, pathlib.Path], labels: Mapping[str, pathlib.Path], where: str
) -> tuple[list[tuple[str, pathlib.Path, pathlib.Path]], tuple[str, ...]]:
  """Rows for `pair_source` of the images that have a label, and a problem per image that has none.

  Args:
    images: by name.
    labels: by name; those of other images are passed over.
    where: the label file that an image lacks, with "{}" for its name.

  Raises:
    UserError: no image has a label.
  """
  rows = [(name, image, labels[name]) for name, image in images.items() if name in labels]
  problems = [
    f"{image}: has no label; add {where.replace('{}', name)} or remove the image"
    for name, image in images.items()
    if name not in labels
  ]
  if not rows:
    raise UserError(problems[0])
  return rows, tuple(problems)


def existing_root(root: str, variable: str = "", key: str = "data.root") -> pathlib.Path:
  """The data set's folder.

  Args:
    root: as in the config; "~" is expanded.
    variable: the environment variable to fall back on where `root` is empty.
    key: of the config that names it.

  Raises:
    UserError: there is none, or it is not a folder.
  """
  root = root or os.environ.get(variable, "")
  if not root:
    also = f" or the environment variable {variable}" if variable else ""
    raise UserError(f"{key} is empty; set it{also} to the data set's folder")
  path = pathlib.Path(root).expanduser()
  if not path.is_dir():
    raise UserError(f"{path}: no such folder; set {key} to the data set's folder")
  return path


def frozen_label_map(label_map: LabelMap, num_classes: int) -> tuple[tuple[int, int], ...]:
  """Checks a config's label map and makes it hashable.

  Raises:
    UserError: a key is outside 0..255 or a value is neither a class nor 255, or they are no pairs.
  """
  entries = label_map.items() if isinstance(label_map, Mapping) else label_map
  try:
    pairs = tuple((int(value), int(train_id)) for value, train_id in entries)
  except (TypeError, ValueError):
    raise UserError(f"label_map {label_map!r}: write it as {{stored value: train id, ...}}") from None
  for value, train_id in pairs:
    if not 0 <= value <= 255:
      raise UserError(f"label_map: {value} is not a label value; keys must be in 0..255")
    if train_id != IGNORE and not 0 <= train_id < num_classes:
      raise UserError(
        f"label_map: {value} maps to {train_id}, which is neither a class (0..{num_classes - 1}) nor 255"
      )
  return pairs


def named_classes(name: str, num_classes: int, class_names: Iterable[str]) -> DatasetInfo:
  """The info of a user's own data set.

  Args:
    name: the data set's name in the config.
    num_classes: C, or 0 to count `class_names`.
    class_names: C names, or none to number the classes.

  Raises:
    UserError: neither says how many classes there are, they disagree, or there are too many.
  """
  names = tuple(class_names)
  count = num_classes or len(names)
  if count <= 0:
    raise UserError("data.num_classes is missing; set it, or list data.class_names")
  if names and len(names) != count:
    raise UserError(f"data.num_classes is {count} but data.class_names lists {len(names)}; make them agree")
  if count > IGNORE:
    raise UserError(
      f"data.num_classes is {count}; labels are 8-bit and 255 is ignore, so at most 255 classes fit"
    )
  return DatasetInfo(name, names or tuple(f"class {i}" for i in range(count)), voc_palette(count))


def voc_palette(count: int) -> tuple[tuple[int, int, int], ...]:
  """The first `count` colours of the PASCAL VOC colour map.

  Bits 0, 1, 2 of the class id become the highest free bits of red, green, blue, and so on with
  the id's next three bits.
  """

  def colour(index: int) -> tuple[int, int, int]:
    red = green = blue = 0
    for shift in range(7, -1, -1):
      red |= (index & 1) << shift
      green |= (index >> 1 & 1) << shift
      blue |= (index >> 2 & 1) << shift
      index >>= 3
    return red, green, blue

  return tuple(map(colour, range(count)))
