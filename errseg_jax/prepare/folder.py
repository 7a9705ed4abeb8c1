"""A folder that a command fills and goes on with where it was killed: whose it is, and whether there is room."""

from __future__ import annotations

import json
import pathlib
import shutil
from typing import Any

from errseg_jax import processes
from errseg_jax.data.records import write_text
from errseg_jax.errors import UserError

NOTE = "extract.json"


def claim(folder: pathlib.Path, settings: dict[str, Any]) -> None:
  """Makes a folder of what such settings give, or finds that it is one; of several processes the first makes it.

  Raises:
    UserError: it is of other settings, or holds something else.
  """
  if not processes.first():
    processes.wait()
  _claim(folder, settings)
  if processes.first():
    processes.wait()


def _claim(folder: pathlib.Path, settings: dict[str, Any]) -> None:
  note, wanted = folder / NOTE, json.loads(json.dumps(settings))
  try:
    held = json.loads(note.read_text())
  except FileNotFoundError:
    if folder.is_dir() and any(folder.iterdir()):
      raise UserError(f"{folder}: holds other files; name another --out") from None
    folder.mkdir(parents=True, exist_ok=True)
    write_text(note, json.dumps(wanted, indent=1))
    return
  except ValueError:
    raise UserError(f"{note}: is damaged; remove {folder} and extract anew") from None
  other = [key for key in wanted if not isinstance(held, dict) or held.get(key) != wanted[key]]
  if other:
    raise UserError(f"{folder}: is of another {' and '.join(other)}; name another --out, or remove it")


def check_space(folder: pathlib.Path, wanted: int, advice: str) -> None:
  """Prints what is to be written.

  Args:
    folder: for it.
    wanted: bytes.
    advice: what makes it less.

  Raises:
    UserError: the disk has less room.
  """
  free = shutil.disk_usage(folder).free
  if processes.first():
    print(f"{folder}: about {size(wanted)} to write")
  if wanted > free:
    raise UserError(f"{folder}: about {size(wanted)} are to be written, and {size(free)} are free: {advice}")


def size(count: int) -> str:
  """Bytes, for people."""
  return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
