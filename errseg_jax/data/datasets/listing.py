"""List files: one "image label" line per sample."""

from __future__ import annotations

import collections
import os
import pathlib
from collections.abc import Callable

from errseg_jax.errors import UserError

Row = tuple[str, pathlib.Path, pathlib.Path]


def read_list(
  path: pathlib.Path, resolve: Callable[[str], pathlib.Path]
) -> tuple[list[Row], tuple[str, ...]]:
  """Reads a list file.

  Args:
    path: each line is an image and a label, separated by a tab, a comma or spaces.
    resolve: turns an entry into a path.

  Returns:
    (name, image path, label path) of the lines whose files exist, and a problem per other line.

  Raises:
    UserError: the list is missing, or no line of it is usable.
  """
  if not path.is_file():
    raise UserError(f"{path}: no such list file; check data.root and the split's name")
  rows, problems = [], []
  for number, line in enumerate(path.read_text("utf-8-sig", errors="replace").splitlines(), start=1):
    if not line.strip():
      continue
    entries = _entries(line)
    if len(entries) != 2:
      problems.append(f"{path}:{number}: {line!r} is not an image and a label; write both paths")
      continue
    image, label = map(resolve, entries)
    if missing := [file for file in (image, label) if not os.path.isfile(file)]:  # of any string
      problems.append(f"{path}:{number}: {missing[0]} does not exist; fix the line or data.root")
    else:
      rows.append((image, label))
  if not rows:
    raise UserError(problems[0] if problems else f"{path}: is empty; list the split's files in it")
  names = _names([image for image, _ in rows])
  return [(name, *row) for name, row in zip(names, rows, strict=True)], tuple(problems)


def _entries(line: str) -> list[str]:
  separator = next((mark for mark in ("\t", ",") if mark in line), None)
  return [entry.strip() for entry in line.strip().split(separator)]


def _names(images: list[pathlib.Path]) -> list[str]:
  """File stems; where two images share one, with as many of their folders in front as tell them apart."""
  depths = dict.fromkeys(images, 1)
  while True:
    names = {image: "_".join(image.with_suffix("").parts[-depth:]) for image, depth in depths.items()}
    counts = collections.Counter(names.values())
    shared = [image for image in names if counts[names[image]] > 1 and depths[image] < len(image.parts)]
    if not shared:
      return [names[image] for image in images]
    for image in shared:
      depths[image] += 1
