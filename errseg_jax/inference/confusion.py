"""The confusion matrix of the frozen network over a source, counted, and read from the file that keeps it."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from errseg_jax.errors import UserError
from errseg_jax.inference.choice import Choice
from errseg_jax.inference.evaluator import Evaluator
from errseg_jax.inference.statistics import make_counter
from errseg_jax.models.error_aware import ErrorAware
from errseg_jax.structs import IGNORE

SCHEMA = 1
MAX_BYTES = 2**24  # of a file: 255 classes take a tenth of it
MAX_COUNT = 2**46  # of one cell: the sum of 255 x 255 of them still fits int64


def count_confusion(
  evaluator: Evaluator,
  model: ErrorAware,
  variables: Any,
  source: Any,
  progress: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
  """Pixels of a source by truth and the frozen network's own label, whatever its guidance and subnets say.

  Memory does not grow with the source.

  Args:
    evaluator: runs the network.
    model: the network.
    variables: trained; the segmenter's are enough.
    source: labelled samples.
    progress: called with the number of images done.

  Returns:
    int64 [C, C], rows are truth; ignored pixels are in no cell.
  """
  counter = make_counter(model.clone(subnets=None, guidance=None), wanted=())
  counts = evaluator.run(counter, variables, source, Choice(), progress=progress).counts
  return counts["confusion/semantic"]


def load_confusion(path: pathlib.Path) -> tuple[np.ndarray, tuple[str, ...]]:
  """(counts int64 [C, C], rows are truth; the C class names) of a file that `errseg confusion` wrote.

  Raises:
    UserError: it is missing or holds anything else.
  """
  path = pathlib.Path(path)
  try:
    if path.stat().st_size > MAX_BYTES:
      raise UserError(f"{path} is no confusion matrix: it is larger than {MAX_BYTES >> 20} MiB")
    content: Any = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise UserError(f"{path} is missing: `errseg confusion --workdir=DIR` writes it") from None
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error.strerror})") from None
  except (ValueError, RecursionError):
    raise UserError(f"{path} is damaged: run `errseg confusion` again") from None
  if not isinstance(content, dict) or content.get("schema") != SCHEMA:
    raise UserError(f"{path} is no confusion matrix of this version: run `errseg confusion` again")
  classes: Any = content.get("classes")
  rows: Any = content.get("counts")
  if not _list_of(str, classes) or not 2 <= len(classes) <= IGNORE:
    raise UserError(f"{path}: classes must be 2 to {IGNORE} names")
  if not _list_of(list, rows) or [len(row) for row in rows] != [len(classes)] * len(classes):
    raise UserError(f"{path}: counts must have a row and a column for each of the {len(classes)} classes")
  if not all(_list_of(int, row) and min(row) >= 0 and max(row) <= MAX_COUNT for row in rows):
    raise UserError(f"{path}: counts must be whole numbers of pixels, 0 or more")
  return np.array(rows, np.int64), tuple(classes)


def _list_of(kind: type, value: Any) -> bool:
  # By the exact type: JSON's true is no number of pixels, though Python's True is an int.
  return isinstance(value, list) and all(type(item) is kind for item in value)
