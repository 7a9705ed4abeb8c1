"""Writes the shards that `shards` reads: in parallel, resumable, the same bytes whatever the number of workers."""

from __future__ import annotations

import concurrent.futures
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from errseg_jax.data.datasets.base import Dataset, Sample, Source
from errseg_jax.data.images import decode_image, plain
from errseg_jax.data.records import write_records, write_text
from errseg_jax.data.shards import SCHEMA, differing, pack, read_index
from errseg_jax.errors import UserError

MOST_SHARDS = 99_999


def record_of(source: Source, index: int) -> bytes:
  """Sample `index` as a record.

  Raises:
    UserError: the sample cannot be used.
  """
  sample = source[index]
  return pack(*encoded(source, index, sample), sample.get("scores"))


def encoded(source: Source, index: int, sample: Sample, everywhere: bool = False) -> tuple[bytes, bytes, str]:
  """(image, label as PNG, name): the image as its file has it where that decodes to the sample's, else as PNG.

  Args:
    source: of the samples.
    index: of the sample.
    sample: it, as read.
    everywhere: only files that all decoders read alike are kept as they are: upright RGB as JPEG or PNG.
  """
  image = _image_bytes(source, index, sample["image"], everywhere)
  return image, _png(sample["label"]), sample["name"]


def _image_bytes(source: Source, index: int, image: np.ndarray, everywhere: bool) -> bytes:
  paths = getattr(source, "images", None)
  if paths:
    content = pathlib.Path(paths[index]).read_bytes()
    if np.array_equal(decode_image(content, paths[index]), image) and (not everywhere or plain(content)):
      return content
  return _png(image)


def _png(array: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, format="PNG", compress_level=1)
  return buffer.getvalue()


def write_split(
  dataset: Dataset,
  split: str,
  source: Source,
  out: pathlib.Path,
  shards: int,
  workers: int,
  progress: Callable[[int], None] = lambda done: None,
) -> pathlib.Path:
  """Writes the shards of a split. Finished ones of samples that are as they were then are kept.

  Args:
    dataset: the data set.
    split: the split's name.
    source: its samples.
    out: folder of the shards; made where there is none.
    shards: number of files; a sample more or less in each.
    workers: threads, each at a shard of its own.
    progress: called with the number of samples written.

  Returns:
    The split's index file.

  Raises:
    UserError: a sample cannot be used, the numbers make no sense, or the folder holds this split of another data set,
      of other settings or in another number of shards.
  """
  if not 1 <= shards <= min(len(source), MOST_SHARDS):
    raise UserError(
      f"--shards={shards} must be 1 to {min(len(source), MOST_SHARDS)}, the samples of {split!r}"
    )
  if workers < 1:
    raise UserError(f"--workers={workers} must be at least 1")
  check_names(source.names)
  index = out / f"{split}.json"
  content = {
    "schema": SCHEMA,
    "data": dataset.settings(),
    "classes": list(dataset.info.classes),
    "names": list(source.names),
  }
  notes = notes_of(out, index, content, shards)
  out.mkdir(parents=True, exist_ok=True)
  bounds = [len(source) * k // shards for k in range(shards + 1)]
  done = 0

  def write(k: int) -> dict[str, Any]:
    path, indices = (
      out / f"{split}-{k:05}-of-{shards:05}.array_record",
      range(bounds[k], bounds[k + 1]),
    )
    key = key_of([content["data"], content["classes"], split], source, indices)
    return kept(path, key, notes) or write_shard(source, indices, path, key, index)

  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    entries = []
    for entry in pool.map(write, range(shards)):
      entries.append(entry)
      done += entry["records"]
      progress(done)
  write_text(index, json.dumps({**content, "shards": entries}, indent=1))
  clear(out, split, {entry["file"] for entry in entries})
  return index


def clear(out: pathlib.Path, split: str, files: set[str]) -> None:
  """Removes notes, and what killed calls left of a split: halves of shards, and noted shards of another number."""
  for path in out.glob(f".{split}-*-of-*.array_record.*"):
    whole = path.with_name(path.name[1:].removesuffix(path.suffix))
    if path.suffix == ".json" and whole.name not in files:
      whole.unlink(missing_ok=True)
    path.unlink()


def check_names(names: Sequence[str]) -> None:
  """Raises UserError at a name that no record can hold."""
  for name in names:
    if not name.isascii() and any(0xD800 <= ord(letter) < 0xE000 for letter in name):
      raise UserError(f"{name.encode('utf-8', 'surrogateescape')!r}: the file's name is no UTF-8; rename it")


def notes_of(
  out: pathlib.Path, index: pathlib.Path, content: dict[str, Any], shards: int
) -> dict[str, dict[str, Any]]:
  """What is known of finished shards, by file.

  Raises:
    UserError: the folder holds a whole split that is another one.
  """
  if not index.exists():
    notes = {}
    for path in out.glob(".*.array_record.json"):
      try:
        entry = json.loads(path.read_text())
        notes[entry["file"]] = entry
      except (ValueError, LookupError, TypeError):  # half a note: its shard is written anew
        continue
    return notes
  found = read_index(index)
  other = differing(found["data"], content["data"])
  if not other and (found["classes"], found["names"]) != (content["classes"], content["names"]):
    other = "other files"
  if not other and len(found["shards"]) != shards:
    other = f"--shards={len(found['shards'])}"
  if other:
    raise UserError(f"{index}: is of {other}; name another --out, or remove it to write the split anew")
  return {entry["file"]: entry for entry in found["shards"]}


def key_of(settings: list[Any], source: Source, indices: range) -> str:
  """Of what a shard is written from: settings, names, and path, size and time of every file."""
  files = getattr(source, "files", lambda index: ())

  def state(path: str) -> tuple[str, int, int]:
    found = os.stat(path)
    return path, found.st_size, found.st_mtime_ns

  samples = [(source.names[index], [state(path) for path in files(index)]) for index in indices]
  return hashlib.blake2b(json.dumps([settings, samples]).encode(), digest_size=16).hexdigest()


def kept(path: pathlib.Path, key: str, notes: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
  """The entry of a shard that is finished and whole."""
  entry = notes.get(path.name)
  whole = entry is not None and entry.get("key") == key and path.exists()
  return entry if entry is not None and whole and entry.get("blake2b") == file_hash(path) else None


def write_shard(
  source: Source, indices: range, path: pathlib.Path, key: str, index: pathlib.Path
) -> dict[str, Any]:
  """Writes one shard: {"file", "records", "bytes", "blake2b", "key"}.

  It is written under another name first, and noted when it is finished: a killed call leaves no half of one.

  Args:
    source: of the samples.
    indices: of the shard.
    path: of the shard.
    key: of `key_of`.
    index: of the split, which goes before a shard that it lists is replaced.

  Raises:
    UserError: a sample cannot be used.
  """

  def records() -> Iterator[bytes]:
    for number in indices:
      yield record_of(source, number)
    index.unlink(missing_ok=True)

  write_records(path, records())
  entry = {
    "file": path.name,
    "records": len(indices),
    "bytes": path.stat().st_size,
    "blake2b": file_hash(path),
    "key": key,
  }
  write_text(path.with_name(f".{path.name}.json"), json.dumps(entry))
  return entry


def file_hash(path: pathlib.Path) -> str:
  """Of a file's bytes, hexadecimal."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
