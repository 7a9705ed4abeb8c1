"""A run on disk: its config, and the variables that its stages left."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from errseg_jax import processes
from errseg_jax.config import default_config
from errseg_jax.errors import UserError

OPTIONAL = {"platform": str, "num_devices": int, "error_loss.w3": float, "crf.alpha": float, "crf.lam": float}
FREE = (
  "platform",
  "num_devices",
  "train.model_devices",
  "train.log_images",
  "train.wandb",
  "loader.threads",
  "loader.shards",
  "data.root",
  "segmenter.adapter.folder",
)
"""Keys that may change between runs of one workdir: they change no result, or name a place."""
ALWAYS = ("splits", "transform", "loader", "views", "tiles", "sparse", "groups", "train", "choose")
"""Sections that have every key of the default config, whatever network and branches a run has."""


def flat(config: ConfigDict | dict) -> dict[str, Any]:
  """{"a.b": value}, in JSON's types."""
  out: dict[str, Any] = {}
  plain = json.loads(config.to_json()) if isinstance(config, ConfigDict) else config
  for key, value in plain.items():
    if isinstance(value, dict) and value:
      out |= {f"{key}.{k}": v for k, v in flat(value).items()}
    else:
      out[key] = value
  return out


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
  """config.json of a workdir as it is, of whatever version.

  Raises:
    UserError: there is none, or it is damaged.
  """
  path = pathlib.Path(workdir) / "config.json"
  try:
    config = json.loads(path.read_text())
  except (FileNotFoundError, NotADirectoryError):
    raise UserError(f"{path} is missing: {workdir} is not the workdir of a run") from None
  except ValueError:
    config = None
  if not isinstance(config, dict):
    raise UserError(f"{path} is damaged: it is not a JSON object")
  return config


def load_config(workdir: pathlib.Path) -> ConfigDict:
  """The resolved config of a workdir.

  Raises:
    UserError: there is none, it is damaged, or another version wrote it.
  """
  path = pathlib.Path(workdir) / "config.json"
  try:
    config = ConfigDict(_tuples(read_config(workdir)))
  except (ValueError, TypeError):
    raise UserError(f"{path} is damaged: it is not a config") from None
  for key, kind in OPTIONAL.items():  # JSON's null has no type, and a flag needs one
    *sections, last = key.split(".")
    section = config.get(sections[0]) if sections else config
    if section is None:
      raise UserError(f"{path} has no section {sections[0]!r}: it is of another version, train again")
    if section.get(last) is None:
      section[last] = placeholder(kind)
  default = default_config()
  missing = [f"segmenter.{key}" for key in default.segmenter if key not in config.segmenter]
  missing += sorted(k for k in flat(default).keys() - flat(config).keys() if k.split(".")[0] in ALWAYS)
  if missing:
    raise UserError(f"{path} has no {', '.join(missing[:4])}: it is of another version, train again")
  return config


def _tuples(value: Any) -> Any:
  if isinstance(value, dict):
    return {k: _tuples(v) for k, v in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def check_writable(workdir: pathlib.Path) -> None:
  """Before anything is computed whose results belong there.

  Raises:
    UserError: it is on a disk that takes no files, or another user's.
  """
  if processes.first() and not os.access(workdir, os.W_OK):
    raise UserError(
      f"{workdir} cannot be written, and the results belong there: make it writable, or copy it"
    )


def claim(workdir: pathlib.Path, config: ConfigDict) -> None:
  """Makes a workdir this config's, or checks that it is.

  Raises:
    UserError: it belongs to another config (lists the differing keys) or to none, or cannot be made.
  """
  path = pathlib.Path(workdir) / "config.json"
  if path.exists():
    old, new = flat(load_config(workdir)), flat(config)
    keys = [
      k
      for k in sorted({*old, *new})
      if old.get(k) != new.get(k) and not any(k == f or k.startswith(f + ".") for f in FREE)
    ]
    if keys:
      shown = "; ".join(f"{k}: {old.get(k)!r} there, {new.get(k)!r} now" for k in keys[:4])
      more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
      raise UserError(f"{workdir} is the workdir of another config ({shown}{more}); name another --workdir")
    return
  if (path.parent / "checkpoints").exists():
    raise UserError(f"{workdir} holds checkpoints but no config.json; name another --workdir")
  if not processes.first():
    return
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--workdir={workdir} cannot be made ({error.strerror}); name another folder") from None
  part = path.with_suffix(".tmp")
  part.write_text(config.to_json(indent=1) + "\n")
  os.replace(part, path)
