"""Samples in ArrayRecord shards: few large files in place of many small ones, in the same order, with checksums.

A folder of shards holds, for each split, files SPLIT-00000-of-00016.array_record and so on, and SPLIT.json, written
last: names, classes, records and hash of each file. A record is a header, the image file, the label as PNG of train
ids, and the name.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import struct
import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from errseg_jax.data.datasets.base import Dataset, Sample, Source
from errseg_jax.data.images import decode_image
from errseg_jax.errors import BadFile, UserError
from errseg_jax.structs import DatasetInfo

SCHEMA = 1
_CHECKSUM = struct.Struct("<I")  # of all that follows
_HEADER = struct.Struct("<III?")  # lengths of image, label, name; whether OpenCV reads the image as Pillow
_AGAIN = "write the shards anew with `errseg data convert`"
MOST_SHARDS = 99_999


def pack(image: bytes, label: bytes, name: str) -> bytes:
  """A record: files of an image and of a label of one channel, and the sample's name."""
  body = image + label + name.encode()
  fast = fast_image(image)
  same = fast is not None and np.array_equal(fast, decode_image(image, name))
  rest = _HEADER.pack(len(image), len(label), len(name.encode()), same) + body
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
    raise BadFile("undecodable", f"{where}: the record is damaged or cut short; {_AGAIN}")
  *lengths, same = _HEADER.unpack_from(rest)
  body = rest[_HEADER.size :]
  first, second = lengths[0], lengths[0] + lengths[1]
  name = body[second:].decode(errors="replace")
  image = fast_image(body[:first]) if same else decode_image(body[:first], where)
  label = cv2.imdecode(np.frombuffer(body[first:second], np.uint8), cv2.IMREAD_UNCHANGED)
  if image is None or label is None or label.ndim != 2:
    raise BadFile("undecodable", f"{where}: the record holds no image or no label; {_AGAIN}")
  if image.shape[:2] != label.shape:
    raise BadFile("size", f"{where}: {name}: image and label differ in size; {_AGAIN}")
  return {"image": image, "label": label, "name": name}


def record_of(source: Source, index: int) -> bytes:
  """Sample `index` as a record.

  Raises:
    UserError: the sample cannot be used.
  """
  return pack(*encoded(source, index))


def encoded(source: Source, index: int) -> tuple[bytes, bytes, str]:
  """(image, label as PNG, name): the image as its file has it where that decodes to the sample's, else as PNG.

  Raises:
    UserError: the sample cannot be used.
  """
  sample = source[index]
  return _image_bytes(source, index, sample["image"]), _png(sample["label"]), sample["name"]


def _image_bytes(source: Source, index: int, image: np.ndarray) -> bytes:
  paths = getattr(source, "images", None)
  if paths is not None:
    content = pathlib.Path(paths[index]).read_bytes()
    if np.array_equal(decode_image(content, paths[index]), image):
      return content
  return _png(image)


def _png(array: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, format="PNG", compress_level=1)
  return buffer.getvalue()


def write_split(
  dataset: Dataset,
  split: str,
  out: pathlib.Path,
  shards: int,
  workers: int,
  progress: Callable[[int], None] = lambda done: None,
) -> pathlib.Path:
  """Writes the shards of a split; finished ones of an earlier call of the same are kept.

  Args:
    dataset: the data set.
    split: the split's name.
    out: folder of the shards; made where there is none.
    shards: number of files; a sample more or less in each.
    workers: threads, each at a shard of its own.
    progress: called with the number of samples written.

  Returns:
    The split's index file.

  Raises:
    UserError: a sample cannot be used, the numbers make no sense, or the folder holds shards of another number.
  """
  source = dataset.source(split)
  if not 1 <= shards <= min(len(source), MOST_SHARDS):
    raise UserError(
      f"--shards={shards} must be 1 to {min(len(source), MOST_SHARDS)}, the samples of {split!r}"
    )
  if workers < 1:
    raise UserError(f"--workers={workers} must be at least 1")
  index = out / f"{split}.json"
  content = {"schema": SCHEMA, "classes": list(dataset.info.classes), "names": list(source.names)}
  if index.exists() and len(read_index(index)["shards"]) != shards:
    raise UserError(f"{index}: is of another number of shards; give --shards as before, or another --out")
  out.mkdir(parents=True, exist_ok=True)
  bounds = [len(source) * k // shards for k in range(shards + 1)]
  key = hashlib.blake2b(json.dumps([content, repr(source)]).encode(), digest_size=16).hexdigest()
  done = 0

  def write(k: int) -> dict[str, Any]:
    path = out / f"{split}-{k:05}-of-{shards:05}.array_record"
    return write_shard(source, range(bounds[k], bounds[k + 1]), path, key)

  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    entries = []
    for entry in pool.map(write, range(shards)):
      entries.append(entry)
      done += entry["records"]
      progress(done)
  _write_text(index, json.dumps({**content, "shards": entries}, indent=1))
  for entry in entries:
    _note(out / entry["file"]).unlink(missing_ok=True)
  return index


def write_shard(source: Source, indices: range, path: pathlib.Path, key: str) -> dict[str, Any]:
  """Writes one shard, unless it is there: {"file", "records", "bytes", "blake2b"}.

  A shard that is written under another name first, and noted when it is finished: a killed call leaves no half of one.

  Args:
    source: of the samples.
    indices: of the shard.
    path: of the shard.
    key: of what is written; a finished shard of another is written anew.

  Raises:
    UserError: a sample cannot be used.
  """
  note = _note(path)
  if note.exists() and path.exists():
    found = json.loads(note.read_text())
    if found["key"] == key and found["entry"]["blake2b"] == file_hash(path):
      return found["entry"]
  part = path.with_name(f".{path.name}.part")
  writer = ArrayRecordWriter(str(part), "group_size:1")
  try:
    for index in indices:
      writer.write(record_of(source, index))
  finally:
    writer.close()
  os.replace(part, path)
  entry = {
    "file": path.name,
    "records": len(indices),
    "bytes": path.stat().st_size,
    "blake2b": file_hash(path),
  }
  _write_text(note, json.dumps({"key": key, "entry": entry}))
  return entry


def _note(path: pathlib.Path) -> pathlib.Path:
  return path.with_name(f".{path.name}.json")


def _write_text(path: pathlib.Path, text: str) -> None:
  part = path.with_name(f".{path.name}.part")
  part.write_text(text)
  os.replace(part, path)


def file_hash(path: pathlib.Path) -> str:
  """Of a file's bytes, hexadecimal."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def read_index(path: pathlib.Path) -> dict[str, Any]:
  """The content of a split's index file.

  Raises:
    UserError: it is missing, damaged, or of a later version.
  """
  try:
    found = json.loads(path.read_text())
    names, classes, shards = found["names"], found["classes"], found["shards"]
    right = all(isinstance(name, str) for name in (*names, *classes)) and all(
      isinstance(shard["file"], str) and "/" not in shard["file"] and shard["records"] > 0 for shard in shards
    )
  except FileNotFoundError:
    raise UserError(
      f"{path}: no such file; config.loader.shards must be a folder that `errseg data convert` wrote this split to"
    ) from None
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f"{path}: is damaged ({' '.join(str(error).split())}); {_AGAIN}") from None
  if found.get("schema") != SCHEMA:
    raise UserError(
      f"{path}: is of schema {found.get('schema')!r}, and this version reads {SCHEMA}; {_AGAIN}"
    )
  if not right or sum(shard["records"] for shard in shards) != len(names):
    raise UserError(f"{path}: names and shards do not agree; {_AGAIN}")
  return found


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
    try:
      record = self.records[index]
    except (IndexError, ValueError, RuntimeError, OSError) as error:
      reason = " ".join(str(error).split())[:200]
      raise BadFile("undecodable", f"{where}: cannot be read ({reason}); {_AGAIN}") from None
    return unpack(record, where)


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
    import grain  # here, as it takes a second

    index = self.root / f"{split}.json"
    found = read_index(index)
    if found["classes"] != list(self.info.classes):
      raise UserError(f"{index}: holds other classes than config.data says; {_AGAIN}")
    paths = [self.root / shard["file"] for shard in found["shards"]]
    for path, shard in zip(paths, found["shards"], strict=True):
      if not path.is_file() or path.stat().st_size != shard["bytes"]:
        raise UserError(f"{path}: is missing or cut short; {_AGAIN}")
    texts = tuple(map(str, paths))
    try:
      records = grain.sources.ArrayRecordDataSource(list(texts))
      count = len(records)
    except (ValueError, RuntimeError, OSError) as error:
      reason = " ".join(str(error).split())[:200]
      raise BadFile(
        "undecodable", f"{self.root}: a shard of {split} is damaged ({reason}); {_AGAIN}"
      ) from None
    if count != len(found["names"]):
      raise UserError(f"{index}: names {len(found['names'])} samples, and its shards hold {count}; {_AGAIN}")
    return ShardSource(texts, tuple(found["names"]), records), ()
