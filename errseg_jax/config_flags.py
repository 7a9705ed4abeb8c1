"""Config files and `--config.a.b=value` overrides, by ml_collections; its errors become one line."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import pathlib
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from errseg_jax.assemble import check_numbers, with_defaults
from errseg_jax.config import default_config
from errseg_jax.errors import UserError

FREE = (
  "data",
  "segmenter.adapter",
  "segmenter.backbone",
  "segmenter.head",
  "guidance",
  "guidance_loss",
  "subnets",
  "error_branch",
  "detail_branch",
  "semantic_loss",
  "subnets_loss",
  "error_loss",
  "detail_loss",
  "cascade",
  "cascade_loss",
  "crf",
)


NAMING = (".pixel.name=", ".adapter.name=")
"""In flags whose value brings keys of its own."""
ARCHITECTURE = ("adapter", "backbone", "head", "mean", "std", "channels", "size_remainder")
"""Keys of a segmenter section that its weights fit."""


def load(name: str, overrides: Sequence[str], given: ConfigDict | None = None) -> ConfigDict:
  """The config of FILE[:arg], with overrides.

  Args:
    name: FILE[:arg].
    overrides: `--config.a.b=value` words.
    given: segmenter section of a trained network, in place of the file's; overrides come on top.

  Raises:
    UserError: no such file, no get_config in it, an unknown key, or a value of another type.
  """
  path, _, arg = name.partition(":")
  file = pathlib.Path(path)
  if not file.is_file():
    near = sorted(str(p) for p in file.parent.glob("*.py")) if file.parent.is_dir() else []
    raise UserError(f"--config={path}: no such file" + (f"; there are {', '.join(near)}" if near else ""))
  spec = importlib.util.spec_from_file_location("errseg_config", file)
  if spec is None or spec.loader is None:
    raise UserError(f"--config={path} is not a Python file")
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    config = module.get_config(arg or None)
  except UserError:
    raise
  except Exception as error:  # the user's own code: whatever it raises is theirs to mend
    raise UserError(f"--config={path}: {type(error).__name__}: {error}") from None
  if not isinstance(config, ConfigDict):
    raise UserError(f"--config={path}: get_config must return a ConfigDict, as default_config() does")
  check_keys(config, default_config())
  if given is not None:
    for key in ARCHITECTURE:
      config.segmenter[key] = given[key]
  return override(with_defaults(config), overrides)


def check_keys(config: ConfigDict, default: ConfigDict, where: str = "") -> None:
  """Refuses keys that nothing would read; FREE sections are checked by the class they are arguments of.

  Raises:
    UserError: an unknown key.
  """
  for key, value in config.items():
    old, path = _get(default, key, where), f"{where}.{key}" if where else key
    closed = isinstance(old, ConfigDict) and path not in FREE and key != "multipliers"
    if closed and isinstance(value, ConfigDict):
      check_keys(value, old, path)


def override(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
  """Sets `--config.a.b=value` keys that exist, to values of their type.

  Another pixel loss, and an adapter, brings keys of its own: it is named first, wherever its flag stands.

  Raises:
    UserError: as `load`.
  """
  for word in sorted(overrides, key=lambda word: not any(name in word for name in NAMING)):
    key, given, text = word.removeprefix("--config.").partition("=")
    if not given:
      raise UserError(f"{word}: write --config.{key}=VALUE")
    *path, last = key.split(".")
    section = config
    for i, name in enumerate(path):
      section = _get(section, name, ".".join(path[:i]))
      if not isinstance(section, ConfigDict):
        raise UserError(f"{word}: config.{'.'.join(path[: i + 1])} is no section")
    if path[-1:] == ["adapter"] and last == "name" and section.get("name") != text:
      config.segmenter.adapter = {"name": text}
      with_defaults(config)
      continue
    old = _get(section, last, ".".join(path))
    if isinstance(old, ConfigDict):
      raise UserError(f"{word}: config.{key} is a section; set one of its keys: {', '.join(old.keys())}")
    try:
      section[last] = convert(text, section.get_type(last))
    except (ValueError, TypeError):
      kind = section.get_type(last).__name__
      raise UserError(f"{word}: config.{key} is of type {kind} ({old!r} by default)") from None
    if path[-1:] == ["pixel"] and last == "name" and section.name != old:
      for other in [k for k in section if k != "name"]:
        del section[other]
      with_defaults(config)
  check_numbers(config)
  return config


def _get(section: ConfigDict, name: str, where: str) -> Any:
  if name in section:
    return section[name]
  if where == "segmenter.adapter" and not section:
    raise UserError(f"config.{where} has no key {name!r} yet; name the adapter first, by config.{where}.name")
  near = difflib.get_close_matches(name, list(section.keys()), 1)
  hint = f"did you mean {near[0]!r}? " if near else ""
  place = f"config.{where}" if where else "config"
  raise UserError(f"{place} has no key {name!r}; {hint}it has {', '.join(sorted(section.keys()))}")


def convert(text: str, kind: type) -> Any:
  """A command-line value as `kind`.

  Raises:
    ValueError: it is not one.
  """
  if kind is str:
    return text
  if kind is bool:
    if text.lower() not in ("true", "false"):
      raise ValueError(text)
    return text.lower() == "true"
  if kind is int:
    return int(text)
  if kind is float:
    return float(text)
  if kind in (tuple, list):
    try:
      value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
      value = text.strip("()[]").split(",")
      value = [v.strip().strip("'\"") for v in value if v.strip()]
    if isinstance(value, dict):  # of a label map: its pairs
      return kind(value.items())
    return kind(value if isinstance(value, tuple | list) else (value,))
  raise ValueError(text)
