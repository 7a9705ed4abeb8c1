"""Applies conversion rules to the arrays of a published file, strictly."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util

from errseg_jax.errors import UserError
from errseg_jax.models.rules import LAYOUTS, TORCH_IGNORED, Rule

SHOWN = 8  # names of each kind in a message


def convert(
  rules: Sequence[Rule],
  arrays: Mapping[str, np.ndarray],
  variables: Mapping[str, Any],
  source: str,
  ignore: Sequence[str] = TORCH_IGNORED,
) -> dict[str, Any]:
  """The variables with every array replaced by the published one.

  Args:
    rules: the first that matches a name says where its array goes.
    arrays: of the published file, by name.
    variables: {"params": tree, "batch_stats": tree} of arrays or of `jax.ShapeDtypeStruct`.
    source: what to call the file in a message.
    ignore: regular expressions of published names that mean nothing here.

  Returns:
    The same tree with numpy arrays of its shapes and types.

  Raises:
    UserError: an array of ours got none or two, one of theirs has no place, a shape differs, or a number is not
      finite; lists them.
  """
  wanted = traverse_util.flatten_dict(dict(variables), sep="/")
  found: dict[str, np.ndarray] = {}
  extra, wrong = [], []
  for name, array in arrays.items():
    if any(re.fullmatch(pattern, name) for pattern in ignore):
      continue
    path, layout = _place(rules, name)
    if path not in wanted or path in found:
      extra.append(name)
      continue
    found[path] = _lay_out(array, layout)
    if found[path].shape != wanted[path].shape:
      wrong.append(f"{name} {list(found[path].shape)}, not {list(wanted[path].shape)}")
  broken = [path for path, array in found.items() if not np.isfinite(array).all()]
  problems = {
    "missing": sorted(wanted.keys() - found),
    "extra": sorted(extra),
    "other shape": wrong,
    "NaN or infinite": sorted(broken),
  }
  if any(problems.values()):
    lists = "; ".join(f"{kind}: {_capped(names)}" for kind, names in problems.items() if names)
    raise UserError(f"{source} is not this network. {lists}. The file holds {describe(arrays)}")
  values = {path: np.asarray(array, wanted[path].dtype) for path, array in found.items()}
  return traverse_util.unflatten_dict(values, sep="/")


def _place(rules: Sequence[Rule], name: str) -> tuple[str, str]:
  """(our path with its collection, layout) of a published name; ("", "copy") without a rule."""
  for rule in rules:
    if path := rule.path(name):
      return path, rule.layout
  return "", "copy"


def _lay_out(array: np.ndarray, layout: str) -> np.ndarray:
  """The array in our order of axes; as it is where it has another number of axes, for the message."""
  try:
    return LAYOUTS[layout](array)
  except ValueError:
    return array


def _capped(names: Sequence[str]) -> str:
  more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
  return f"{len(names)} ({', '.join(names[:SHOWN])}{more})"


def describe(arrays: Mapping[str, np.ndarray]) -> str:
  """What a file looks like: how many arrays and numbers, its first and last names with their shapes."""
  if not arrays:
    return "no arrays"
  names: Iterable[str] = arrays if len(arrays) <= 6 else (*list(arrays)[:3], "...", *list(arrays)[-3:])
  listed = ", ".join(f"{n} {list(arrays[n].shape)}" if n in arrays else n for n in names)
  millions = sum(array.size for array in arrays.values()) / 1e6
  return f"{len(arrays)} arrays of {millions:.2f} M numbers: {listed}"
