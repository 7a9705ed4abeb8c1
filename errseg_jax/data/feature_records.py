"""A cache of what a frozen network says of augmented views: its branches then train without it.

A folder holds shards branches-00000-of-00012.array_record and so on, and branches.json, written last: what the views
were made of and with which network, and the kind and shape of every array. All records are of one size: a checksum,
then the bytes of the arrays, one after the other.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from errseg_jax.data.datasets.base import Sample
from errseg_jax.data.records import open_records, record_at
from errseg_jax.errors import BadFile, UserError
from errseg_jax.structs import Features

SCHEMA = 1
INDEX = "branches.json"
AGAIN = "write the cache anew with `errseg data extract`"
_CHECKSUM = struct.Struct("<I")
_KINDS = {"uint8": np.uint8, "float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
Layout = tuple[tuple[str, str, tuple[int, ...]], ...]
"""(name, dtype, shape) of each array of a record, in order."""


def layout_of(arrays: Mapping[str, np.ndarray]) -> Layout:
  """The layout of records that hold such arrays."""
  return tuple((name, x.dtype.name, tuple(x.shape)) for name, x in arrays.items())


def record_bytes(layout: Layout) -> int:
  """Of one record."""
  return _CHECKSUM.size + sum(np.dtype(_KINDS[kind]).itemsize * math.prod(shape) for _, kind, shape in layout)


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
  """A record."""
  body = b"".join(np.ascontiguousarray(x).tobytes() for x in arrays.values())
  return _CHECKSUM.pack(zlib.crc32(body)) + body


def unpack(record: bytes, layout: Layout, where: str) -> dict[str, np.ndarray]:
  """The arrays of a record.

  Raises:
    UserError: it is damaged; `where` says which it is.
  """
  body = memoryview(record)[_CHECKSUM.size :]
  if len(record) != record_bytes(layout) or zlib.crc32(body) != _CHECKSUM.unpack_from(record)[0]:
    raise BadFile("undecodable", f"{where}: the record is damaged or cut short; {AGAIN}")
  arrays, start = {}, 0
  for name, kind, shape in layout:
    dtype = np.dtype(_KINDS[kind])
    end = start + dtype.itemsize * math.prod(shape)
    arrays[name] = np.frombuffer(body[start:end], dtype).reshape(shape)
    start = end
  return arrays


def flattened(features: Features) -> dict[str, Any]:
  """Features as named arrays, maps of features in bfloat16."""
  maps = {f"low{k}": x for k, x in enumerate(features.low)}
  if features.high is not None:
    maps["high"] = features.high
  return {"logits": features.logits, **{name: x.astype(ml_dtypes.bfloat16) for name, x in maps.items()}}


@dataclasses.dataclass(frozen=True)
class FeatureCache:
  """Views of training images with the frozen network's features, K views of each.

  Attributes:
    paths: of the shards.
    images: names of the N images.
    layout: of a record.
    strides: of `Features`.
    align_corners: of `Features`.
    records: random access, N K; view k of image i is the (k N + i)-th.
    settings: what the views were made of and with which network.
  """

  paths: tuple[str, ...]
  images: tuple[str, ...]
  layout: Layout
  strides: tuple[int, ...]
  align_corners: bool
  records: Any
  settings: Mapping[str, Any]

  @property
  def names(self) -> tuple[str, ...]:
    """Of the image of each record."""
    return self.images * (len(self) // len(self.images))

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> Sample:
    where = f"{pathlib.Path(self.paths[0]).parent}: record {index}"
    return unpack(record_at(self.records, index, where, AGAIN), self.layout, where)

  def assembled(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """A batch of records as {"image", "label", "features"}."""
    low = tuple(arrays[f"low{k}"] for k in range(len(self.strides)))
    features = Features(
      arrays["logits"], low, arrays.get("high"), self.strides, align_corners=self.align_corners
    )
    return {"image": arrays["image"], "label": arrays["label"], "features": features}


def open_cache(folder: pathlib.Path) -> FeatureCache:
  """The cache of a folder.

  Raises:
    UserError: there is none, it is not finished, or damaged.
  """
  path = folder / INDEX
  try:
    found = json.loads(path.read_text())
  except FileNotFoundError:
    raise UserError(
      f"{path}: no such file; config.loader.features must be a folder that `errseg data extract --passes=K` finished"
    ) from None
  except (OSError, ValueError) as error:
    raise UserError(f"{path}: is damaged ({' '.join(str(error).split())}); {AGAIN}") from None
  try:
    if found["schema"] != SCHEMA:
      raise UserError(f"{path}: is of schema {found['schema']!r}, and this version reads {SCHEMA}; {AGAIN}")
    layout = tuple((name, kind, tuple(shape)) for name, kind, shape in found["layout"])
    paths = tuple(str(folder / pathlib.PurePath(name).name) for name in found["shards"])
    images, count = tuple(found["images"]), found["records"]
    record_bytes(layout)
    rest = tuple(found["strides"]), bool(found["align_corners"])
    settings = dict(found["settings"])
  except (LookupError, TypeError, ValueError) as error:
    raise UserError(f"{path}: is damaged ({type(error).__name__}: {error}); {AGAIN}") from None
  records = open_records(paths, f"{folder}: a shard", AGAIN)
  if len(records) != count or not images or not count or count % len(images):
    raise UserError(f"{path}: its shards do not hold what it says; {AGAIN}")
  return FeatureCache(paths, images, layout, *rest, records, settings)
