"""What `errseg tune` found on unseen images: weights of views, and settings of the CRF."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from errseg_jax.errors import UserError

SCHEMA = 1
FILE = "tuned.json"


@dataclasses.dataclass(frozen=True)
class Tuned:
  """The content of tuned.json.

  Attributes:
    on: the images that it was tuned on, in words.
    views: config.views that the weights are of; {} without weights.
    combination: weights [K][C] of the views; () without.
    lam: of the CRF (`inference.crf.GuidanceCRF`); None: the CRF was not tuned.
    compatibility: learned matrix [C][C]; () without.
    candidates: mIoU on those images: "single" and "learned" for views, "without" and "lam=..." for the CRF.
  """

  on: str
  views: dict[str, Any] = dataclasses.field(default_factory=dict)
  combination: tuple[tuple[float, ...], ...] = ()
  lam: float | None = None
  compatibility: tuple[tuple[float, ...], ...] = ()
  candidates: dict[str, float] = dataclasses.field(default_factory=dict)

  def save(self, workdir: pathlib.Path) -> pathlib.Path:
    """Writes tuned.json, whole or not at all; its path."""
    path = pathlib.Path(workdir) / FILE
    part = path.with_suffix(".tmp")
    part.write_text(json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, indent=1) + "\n")
    os.replace(part, path)
    return path

  @classmethod
  def load(cls, workdir: pathlib.Path) -> Tuned:
    """Reads tuned.json.

    Raises:
      UserError: it is missing or damaged.
    """
    path = pathlib.Path(workdir) / FILE
    try:
      fields = json.loads(path.read_text())
      if fields.pop("schema") != SCHEMA:
        raise ValueError
      for key in ("combination", "compatibility"):
        fields[key] = tuple(tuple(map(float, row)) for row in fields[key])
        np.array(fields[key], np.float32)  # a row of another length
      return cls(**fields)
    except FileNotFoundError:
      raise UserError(f"{path} is missing: run `errseg tune` with this workdir and the same flags") from None
    except (ValueError, TypeError, KeyError, AttributeError):
      raise UserError(f"{path} is damaged: run `errseg tune` again") from None


def wants_tuning(config: ConfigDict) -> bool:
  """Whether what a config asks of a network at rest has to be learned or chosen first."""
  crf = config.crf
  return config.views.combine == "learned" or bool(
    crf.iterations and (crf.lam is None or crf.compatibility == "learned")
  )


def tuned_arrays(config: ConfigDict, workdir: pathlib.Path) -> dict[str, jax.Array]:
  """The collection "tuned" of a network's variables: what `config` wants of tuned.json.

  Returns:
    "combination" [K, C], "lam" [] and "compatibility" [C, C], each where it is asked for; {} where nothing is.

  Raises:
    UserError: tuned.json is missing, damaged, or of other views or settings.
  """
  if not wants_tuning(config):
    return {}
  found, out, again = Tuned.load(workdir), {}, "run `errseg tune` again, with the same flags"
  if config.views.combine == "learned":
    asked = json.loads(config.views.to_json())
    if not found.combination or found.views != asked:
      raise UserError(f"{workdir}/{FILE} has no weights of config.views={asked}: {again}")
    out["combination"] = jnp.array(found.combination, jnp.float32)
  if config.crf.iterations and config.crf.lam is None:
    if found.lam is None:
      raise UserError(f"{workdir}/{FILE} has no lambda of the CRF: {again}, or set config.crf.lam")
    out["lam"] = jnp.float32(found.lam)
  if config.crf.iterations and config.crf.compatibility == "learned":
    if not found.compatibility:
      raise UserError(f"{workdir}/{FILE} has no learned compatibility: {again}")
    out["compatibility"] = jnp.array(found.compatibility, jnp.float32)
  return out
