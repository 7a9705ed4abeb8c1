"""Dense prediction cells: what may be in one, the published one, and cells from a file."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from typing import Any

from errseg_jax.errors import UserError

KEYS = {"conv": ("op", "input", "kernel", "rate"), "pyramid_pooling": ("op", "input", "grid_size")}


@dataclasses.dataclass(frozen=True)
class Branch:
  """One operation of a cell.

  Attributes:
    input: index of the branch it reads; -1 = the backbone's map.
    op: "conv" or "pyramid_pooling".
    kernel: of "conv": 1 = a plain 1x1 convolution, else depthwise-separable.
    rate: of "conv", dilation (vertical, horizontal) at output stride 16.
    grid: of "pyramid_pooling", (vertical, horizontal) number of windows that would tile the map.
  """

  input: int
  op: str = "conv"
  kernel: int = 3
  rate: tuple[int, int] = (1, 1)
  grid: tuple[int, int] = (1, 1)


# The best cell that Chen et al. (2018) found on Cityscapes.
PUBLISHED = (
  Branch(-1, rate=(1, 6)),
  Branch(0, rate=(18, 15)),
  Branch(1, rate=(6, 3)),
  Branch(0, rate=(1, 1)),
  Branch(0, rate=(6, 21)),
)


def positive_pair(value: Any, where: str) -> tuple[int, int]:
  """Two whole numbers from 1 on, from one or from a list of two."""
  values = value if isinstance(value, list) else [value, value]
  if len(values) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in values):
    raise UserError(f"{where}={value!r} must be a positive whole number or a list of two")
  return values[0], values[1]


def parse_branch(entry: Any, index: int, where: str) -> Branch:
  """A branch from its JSON object, `index` being its place in the cell."""
  if not isinstance(entry, dict) or entry.get("op") not in KEYS:
    raise UserError(f'{where} must be an object with "op": {" or ".join(json.dumps(op) for op in KEYS)}')
  keys = KEYS[entry["op"]]
  if unknown := sorted(entry.keys() - set(keys)):
    raise UserError(f"{where} has the unknown key {unknown[0]!r}; known: {', '.join(keys)}")
  source = entry.get("input")
  if isinstance(source, bool) or not isinstance(source, int) or not -1 <= source < index:
    raise UserError(f"{where}.input={source!r} must be -1 (the backbone) or the index of an earlier branch")
  if entry["op"] == "pyramid_pooling":
    return Branch(source, "pyramid_pooling", grid=positive_pair(entry.get("grid_size"), f"{where}.grid_size"))
  kernel = positive_pair(entry.get("kernel"), f"{where}.kernel")
  if kernel[0] != kernel[1] or kernel[0] % 2 == 0:
    raise UserError(f"{where}.kernel={entry['kernel']!r} must be square and odd")
  return Branch(source, "conv", kernel[0], positive_pair(entry.get("rate", 1), f"{where}.rate"))


def cell_text(cell: str) -> str:
  """The JSON of a cell that is given by its text or its file.

  Raises:
    UserError: the file cannot be read.
  """
  if cell.lstrip().startswith("["):
    return cell
  try:
    return pathlib.Path(cell).read_text()
  except (OSError, ValueError) as error:
    raise UserError(f"cannot read the dense prediction cell {cell}: {error}; give a JSON file") from error


@functools.cache
def read_cell(cell: str) -> tuple[Branch, ...]:
  """A cell from JSON: the list of objects of the published `dense_prediction_cell_*.json`.

  Args:
    cell: the file, or the text itself.

  Raises:
    UserError: the file is not there, is no JSON, or describes no cell; says which branch and key.
  """
  text = cell_text(cell)
  where = "of the config" if text == cell else cell
  try:
    entries = json.loads(text)
  except ValueError as error:
    raise UserError(f"the dense prediction cell {where} is no JSON: {error}") from error
  if not isinstance(entries, list) or not entries:
    raise UserError(f"the dense prediction cell {where} must be a JSON list with one object for each branch")
  return tuple(parse_branch(entry, i, f"{where}: branch {i}") for i, entry in enumerate(entries))
