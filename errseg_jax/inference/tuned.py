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
    settings: sections "views", "tiles" and "crf" of the config that it was tuned under.
    combination: weights [K][C] of the views; () without.
    alpha: of the CRF (`models.crf.GuidanceCRF`); None: the CRF was not tuned.
    lam: see alpha.
    compatibility: learned matrix [C][C]; () without.
    candidates: mIoU on those images: of the mean and the learned combination of views, without CRF and with each.
  """

  on: str
  settings: dict[str, Any] = dataclasses.field(default_factory=dict)
  combination: tuple[tuple[float, ...], ...] = ()
  alpha: float | None = None
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


def settings_of(config: ConfigDict) -> dict[str, Any]:
  """The sections that tuning depends on, in JSON's types."""
  return {name: json.loads(config[name].to_json()) for name in ("views", "tiles", "crf")}


def asked(config: ConfigDict, with_crf: bool = True) -> list[str]:
  """What a config wants of tuned.json: of "combination", and with the CRF of "alpha", "lam" and "compatibility".

  Without guidance there are no classes of the image, so lambda is not asked for.
  """
  crf, out = config.crf, []
  if config.views.combine == "learned":
    out.append("combination")
  if crf.iterations and with_crf:
    guided = {"guided", "guidance"} & {*config.order}
    out += ["alpha"] if crf.alpha is None else []
    out += ["lam"] if crf.lam is None and guided else []
    out += ["compatibility"] if crf.compatibility == "learned" else []
  return out


def tuned_arrays(config: ConfigDict, workdir: pathlib.Path, with_crf: bool = True) -> dict[str, jax.Array]:
  """The collection "tuned" of a network's variables: what `config` wants of tuned.json.

  Returns:
    "combination" [K, C], "alpha" [], "lam" [] and "compatibility" [C, C], each where it is asked for.

  Raises:
    UserError: tuned.json is missing, damaged, or was tuned under other settings.
  """
  if not (wanted := asked(config, with_crf)):
    return {}
  found, here = Tuned.load(workdir), settings_of(config)
  sections = ["views", "tiles"] + (["crf"] if wanted != ["combination"] else [])
  for name in sections:
    if found.settings.get(name) != here[name]:
      raise UserError(
        f"{workdir}/{FILE} was tuned with config.{name}={found.settings.get(name)}, and here it is {here[name]}: run "
        "`errseg tune` again, with the same flags"
      )
  return {name: jnp.array(getattr(found, name), jnp.float32) for name in wanted}
