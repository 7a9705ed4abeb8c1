"""Samples in ArrayRecord shards: few large files in place of many small ones, in the same order, with checksums.

A folder of shards holds, for each split, files SPLIT-00000-of-00016.array_record and so on, and SPLIT.json, written
last: the settings of the data set, classes, names, and of each file its records, bytes and hashes. A record is a
header, the image file, the label as PNG of train ids, scores (`data.scores`) where there are some, and the name.
`shard_writer` writes them.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import struct
import zlib
from typing import Any

import cv2
import numpy as np

from errseg_jax.data.datasets.base import Dataset, Sample, Source
from errseg_jax.data.images import decode_image
from errseg_jax.data.records import open_records, record_at
from errseg_jax.errors import BadFile, UserError
from errseg_jax.structs import DatasetInfo

SCHEMA = 3
AGAIN = "write the shards anew with `errseg data convert`"
_CHECKSUM = struct.Struct("<I")  # of all that follows
_HEADER = struct.Struct(
  "<IIII?"
)  # lengths of image, label, scores, name; whether OpenCV reads the image as Pillow
_SHAPE = struct.Struct("<III")  # of scores, before their compressed bytes


def pack(image: bytes, label: bytes, name: str, scores: np.ndarray | None = None) -> bytes:
  """A record: files of an image and of a label of one channel, the sample's name, and its scores, uint8 [h, w, C]."""
  codes = b"" if scores is None else _SHAPE.pack(*scores.shape) + zlib.compress(scores.tobytes(), 1)
  parts = (image, label, codes, name.encode())
  fast = fast_image(image)
  same = fast is not None and np.array_equal(fast, decode_image(image, name))
  rest = _HEADER.pack(*map(len, parts), same) + b"".join(parts)
  return _CHECKSUM.pack(zlib.crc32(rest)) + rest


def fast_image(content: bytes) -> np.ndarray | None:
  """An image by OpenCV: faster than Pillow, but damaged files and rare kinds of colour it reads its own way."""
  found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
  return None if found is None else cv2.cvtColor(found, cv2.COLOR_BGR2RGB)


def unpack(record: bytes, where: str) -> Sample:
  """The sample of a record.

  Args:
    record: of `pack`.
    where: for messages.

  Raises:
    UserError: it is damaged.
  """
  rest = record[_CHECKSUM.size :]
  if len(rest) < _HEADER.size or zlib.crc32(rest) != _CHECKSUM.unpack_from(record)[0]:
    raise BadFile("undecodable", f"{where}: the record is damaged or cut short; {AGAIN}")
  *lengths, same = _HEADER.unpack_from(rest)
  parts, start = [], _HEADER.size
  for length in lengths:
    parts.append(rest[start : start + length])
    start += length
  name = parts[3].decode(errors="replace")
  image = fast_image(parts[0]) if same else decode_image(parts[0], where)
  label = cv2.imdecode(np.frombuffer(parts[1], np.uint8), cv2.IMREAD_UNCHANGED)
  if image is None or label is None or label.ndim != 2:
    raise BadFile("undecodable", f"{where}: the record holds no image or no label; {AGAIN}")
  if image.shape[:2] != label.shape:
    raise BadFile("size", f"{where}: {name}: image and label differ in size; {AGAIN}")
  sample = {"image": image, "label": label, "name": name}
  return {**sample, "scores": _scores(parts[2], where)} if parts[2] else sample


def _scores(content: bytes, where: str) -> np.ndarray:
  """The codes of a record, uint8 [h, w, C]."""
  try:
    shape = _SHAPE.unpack_from(content)
    size = math.prod(shape)
    codes = zlib.decompressobj().decompress(content[_SHAPE.size :], size + 1)
    return np.frombuffer(codes, np.uint8).reshape(shape)
  except (struct.error, zlib.error, ValueError, OverflowError) as error:
    raise BadFile("undecodable", f"{where}: its scores are damaged ({error}); {AGAIN}") from None


def read_index(path: pathlib.Path) -> dict[str, Any]:
  """The content of a split's index file.

  Raises:
    UserError: it is missing, damaged, or of a later version.
  """
  try:
    found = json.loads(path.read_text())
    schema = found["schema"]
  except FileNotFoundError:
    raise UserError(
      f"{path}: no such file; config.loader.shards must be a folder that `errseg data convert` wrote this split to"
    ) from None
  except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
    raise UserError(f"{path}: is damaged ({' '.join(str(error).split())}); {AGAIN}") from None
  if schema != SCHEMA:
    raise UserError(f"{path}: is of schema {schema!r}, and this version reads {SCHEMA}; {AGAIN}")
  try:
    right = _agree(found)
  except (LookupError, TypeError, AttributeError) as error:
    raise UserError(f"{path}: is damaged ({type(error).__name__}: {error}); {AGAIN}") from None
  if not right:
    raise UserError(f"{path}: names and shards do not agree; {AGAIN}")
  return found


def _agree(found: dict[str, Any]) -> bool:
  """Whether an index holds what it should, and its shards as many records as there are names."""
  texts = (*found["names"], *found["classes"], *found["data"])
  shards = found["shards"]
  return (
    all(isinstance(text, str) for text in texts)
    and all(isinstance(shard["file"], str) and "/" not in shard["file"] for shard in shards)
    and all(
      isinstance(shard[key], int) and shard[key] > 0 for shard in shards for key in ("records", "bytes")
    )
    and sum(shard["records"] for shard in shards) == len(found["names"])
  )


def differing(held: dict[str, Any], wanted: dict[str, Any]) -> str:
  """Where the settings that samples were made with are not the config's: "" where they are."""
  keys = [key for key in sorted({*held, *wanted}) if held.get(key) != wanted.get(key)]
  return ", ".join(f"data.{key}={held.get(key)!r} (here {wanted.get(key)!r})" for key in keys[:3])


@dataclasses.dataclass(frozen=True)
class ShardSource:
  """The samples of a split's shards, in the order of the data set.

  Attributes:
    paths: of the shards.
    names: one per sample.
    records: grain's random-access source over them.
  """

  paths: tuple[str, ...]
  names: tuple[str, ...]
  records: Any

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> Sample:
    where = f"{pathlib.Path(self.paths[0]).parent}: sample {index} ({self.names[index]})"
    return unpack(record_at(self.records, index, where, AGAIN), where)


@dataclasses.dataclass(frozen=True)
class Sharded(Dataset):
  """A data set whose samples are read from shards.

  Attributes:
    inner: says which classes there are.
    root: folder of the shards.
  """

  inner: Dataset
  root: pathlib.Path

  @property
  def info(self) -> DatasetInfo:
    return self.inner.info

  def published(self, split: str) -> int:
    return self.inner.published(split)

  def scan(self, split: str) -> tuple[Source, tuple[str, ...]]:
    index = self.root / f"{split}.json"
    found = read_index(index)
    if found["classes"] != list(self.info.classes):
      raise UserError(f"{index}: holds other classes than config.data says; {AGAIN}")
    if other := differing(found["data"], self.inner.settings()):
      raise UserError(f"{index}: holds samples of {other}; {AGAIN}, or set config.data as it was then")
    paths = [self.root / shard["file"] for shard in found["shards"]]
    for path, shard in zip(paths, found["shards"], strict=True):
      if not path.is_file() or path.stat().st_size != shard["bytes"]:
        raise UserError(f"{path}: is missing or cut short; {AGAIN}")
    texts = tuple(map(str, paths))
    records = open_records(texts, f"{self.root}: a shard of {split}", AGAIN)
    if len(records) != len(found["names"]):
      raise UserError(
        f"{index}: names {len(found['names'])} samples, and its shards hold {len(records)}; {AGAIN}"
      )
    return ShardSource(texts, tuple(found["names"]), records), ()
