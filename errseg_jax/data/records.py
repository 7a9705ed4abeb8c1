"""Files of ArrayRecord: written whole or not at all, read at random, damage told in one line."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter

from errseg_jax.errors import BadFile

UNREADABLE = (IndexError, ValueError, RuntimeError, OSError)
"""What grain raises at damaged files."""


def open_records(paths: Sequence[str], where: str, again: str) -> Any:
  """Random access to the records of some files, in order.

  Args:
    paths: of the files.
    where: for messages.
    again: what to do about damage.

  Raises:
    UserError: one is missing or damaged.
  """
  import grain  # here, as it takes a second

  try:
    records = grain.sources.ArrayRecordDataSource(list(paths))
    len(records)  # opens them
  except UNREADABLE as error:
    raise BadFile("undecodable", f"{where}: is missing or damaged ({_reason(error)}); {again}") from None
  return records


def record_at(records: Any, index: int, where: str, again: str) -> bytes:
  """One record of `open_records`; arguments and errors as there."""
  try:
    return records[index]
  except UNREADABLE as error:
    raise BadFile("undecodable", f"{where}: cannot be read ({_reason(error)}); {again}") from None


def _reason(error: Exception) -> str:
  return " ".join(str(error).split())[:200]


def write_records(path: pathlib.Path, records: Iterable[bytes]) -> None:
  """A file of records, under another name until it is finished: a killed call leaves no half of one."""
  part = path.with_name(f".{path.name}.part")
  writer = ArrayRecordWriter(str(part), "group_size:1")
  try:
    for record in records:
      writer.write(record)
  finally:
    writer.close()
  os.replace(part, path)


def write_text(path: pathlib.Path, text: str) -> None:
  """A text file, whole or not at all."""
  part = path.with_name(f".{path.name}.part")
  part.write_text(text)
  os.replace(part, path)
