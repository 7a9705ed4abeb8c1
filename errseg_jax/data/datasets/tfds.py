"""Any data set that tensorflow-datasets has prepared as array_record; TensorFlow itself is not needed."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from typing import Any

import numpy as np

from errseg_jax.data.datasets.base import Dataset, LabelMap, Sample, Source, frozen_label_map, named_classes
from errseg_jax.data.label_values import LabelValues
from errseg_jax.errors import BadFile, UserError
from errseg_jax.structs import DatasetInfo

_FORMAT = "array_record"


@dataclasses.dataclass(frozen=True)
class TFDSSource:
  """Samples of one split.

  Attributes:
    names: SPLIT_INDEX, as records have no names that are read without the images.
    records: random access to {feature: value}.
    image_key: feature of the image.
    label_key: feature of the label.
    values: what label values mean.
  """

  names: tuple[str, ...]
  records: Any
  image_key: str
  label_key: str
  values: LabelValues

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> Sample:
    name = self.names[index]
    try:
      record = self.records[index]
      image, stored = np.asarray(record[self.image_key]), np.asarray(record[self.label_key])
    except Exception as error:  # whatever tensorflow-datasets makes of a damaged shard
      raise BadFile("undecodable", unreadable(name, error)) from None
    stored = stored.reshape(stored.shape[:2]) if stored.ndim == 3 and stored.shape[-1] == 1 else stored
    if stored.ndim != 2 or stored.dtype.kind not in "iu":
      raise BadFile(
        "colour_mask", f"{name}: {self.label_key} is no map of class ids but {stored.dtype}{stored.shape}"
      )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3):
      raise BadFile(
        "deep_image", f"{name}: {self.image_key} is no 8-bit image but {image.dtype}{image.shape}"
      )
    if image.shape[:2] != stored.shape:
      raise BadFile("size", f"{name}: image {image.shape[:2]} and label {stored.shape} differ in size")
    image = np.repeat(image, 3, -1) if image.shape[-1] == 1 else image
    return {"image": image, "label": self.values.train_ids(stored.astype(np.int32), name), "name": name}


@dataclasses.dataclass(frozen=True)
class TFDS(Dataset):
  """A prepared data set with an image and a label feature.

  Attributes:
    dataset: NAME, NAME/CONFIG or NAME/VERSION below the root; the latest version without one.
    root: the data_dir that it was prepared to; empty takes the environment variable TFDS_DATA_DIR.
    image_key: feature of the image; "" finds the only one of three channels.
    label_key: feature of the label; "" finds the only one of one channel.
    num_classes: C, or 0 to count `class_names`; 0 without those takes the classes that `errseg data convert` wrote.
    class_names: C names, or none to number the classes.
    label_map: stored label value -> train id or 255; empty means that labels are train ids.
  """

  dataset: str = ""
  root: str = ""
  image_key: str = ""
  label_key: str = ""
  num_classes: int = 0
  class_names: tuple[str, ...] = ()
  label_map: LabelMap = ()

  @property
  def info(self) -> DatasetInfo:
    if self.num_classes or self.class_names:
      return named_classes("tfds", self.num_classes, self.class_names)
    return described(self.folder())

  def scan(self, split: str) -> tuple[Source, tuple[str, ...]]:
    folder = self.folder()
    builder = opened(folder)
    if (found := builder.info.file_format.value) != _FORMAT:
      raise UserError(
        f"{folder}: is prepared as {found}, which wants TensorFlow; convert it, where TensorFlow is installed, with "
        f"`tfds convert_format --dataset_version_dir={folder} --out_file_format={_FORMAT} --out_dir=DIR`"
      )
    if split not in builder.info.splits:
      raise UserError(f"{folder}: has no split {split!r} but {', '.join(sorted(builder.info.splits))}")
    image_key = feature(builder.info.features, self.image_key, 3, "image_key", folder)
    label_key = feature(builder.info.features, self.label_key, 1, "label_key", folder)
    try:
      records = builder.as_data_source(split=split)
      count = len(records)
    except Exception as error:  # of a shard that is missing or cut short
      raise UserError(unreadable(f"{folder}: split {split}", error)) from None
    names = tuple(f"{split}_{index:08}" for index in range(count))
    values = LabelValues(self.info.num_classes, frozen_label_map(self.label_map, self.info.num_classes))
    return TFDSSource(names, records, image_key, label_key, values), ()

  def folder(self) -> pathlib.Path:
    """Of the version that is read.

    Raises:
      UserError: there is none.
    """
    root = self.root or os.environ.get("TFDS_DATA_DIR", "")
    if not root or not self.dataset:
      missing = "data.root, or the environment variable TFDS_DATA_DIR," if not root else "data.dataset"
      raise UserError(f"{missing} is empty; name the data_dir and the data set that were prepared")
    parts = pathlib.PurePosixPath(self.dataset).parts
    if ".." in parts or parts[0] == "/":
      raise UserError(f"data.dataset={self.dataset!r} must be NAME, NAME/CONFIG or NAME/VERSION")
    path = pathlib.Path(root).expanduser().joinpath(*parts)
    if (path / "dataset_info.json").is_file():
      return path
    versions = sorted(path.glob("*/dataset_info.json"), key=lambda file: _version(file.parent.name))
    if not versions:
      raise UserError(
        f"{path}: holds no prepared data set; check data.root and data.dataset={self.dataset!r}"
      )
    return versions[-1].parent


def opened(folder: pathlib.Path) -> Any:
  """The builder of a prepared data set.

  Raises:
    UserError: its description cannot be read.
  """
  import tensorflow_datasets as tfds  # here, as it takes a second

  try:
    builder = tfds.builder_from_directory(str(folder))
    _ = builder.info.features, builder.info.splits
  except Exception as error:  # of JSON, of protocol buffers, of features that this version lacks
    raise UserError(unreadable(str(folder), error)) from None
  return builder


@functools.cache
def described(folder: pathlib.Path) -> DatasetInfo:
  """Classes and palette that a prepared data set tells of.

  Raises:
    UserError: it tells of none.
  """
  found = opened(folder).info.metadata or {}
  classes, palette = tuple(found.get("classes", ())), tuple(map(tuple, found.get("palette", ())))
  if not classes or not all(isinstance(name, str) for name in classes):
    raise UserError(f"{folder}: does not say which classes it has; set data.num_classes or data.class_names")
  named = named_classes("tfds", 0, classes)
  return dataclasses.replace(named, palette=palette) if len(palette) == len(classes) else named


def unreadable(where: str, error: Exception) -> str:
  """One line of what another package raised."""
  reason = " ".join(str(error).split())[:200]
  return f"{where}: cannot be read ({type(error).__name__}: {reason}); prepare the data set anew"


def _version(name: str) -> tuple[int, ...]:
  return tuple(int(part) if part.isdecimal() else -1 for part in name.split("."))


def feature(features: Any, given: str, channels: int, key: str, folder: pathlib.Path) -> str:
  """The feature that a config names, or the only image feature of so many channels.

  Raises:
    UserError: it has no such feature, or several could be meant.
  """
  if given:
    if given not in features:
      raise UserError(f"{folder}: has no feature {given!r} but {', '.join(features)}; set data.{key}")
    return given
  shapes = {name: one.shape for name, one in features.items()}  # of nested features a dict
  fitting = [n for n, shape in shapes.items() if isinstance(shape, tuple) and shape[2:] == (channels,)]
  if len(fitting) != 1:
    raise UserError(
      f"{folder}: {len(fitting)} features could be meant ({', '.join(features)}); set data.{key}"
    )
  return fitting[0]
