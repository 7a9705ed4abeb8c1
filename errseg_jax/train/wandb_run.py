"""A run on Weights & Biases, where `config.train.wandb` names a project. Nothing else of the package knows of it."""

from __future__ import annotations

import pathlib
import secrets
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from errseg_jax.errors import UserError


def import_wandb(project: str) -> ModuleType:
  """The package.

  Raises:
    UserError: it is not installed.
  """
  try:
    import wandb
  except ImportError:
    raise UserError(
      f"config.train.wandb={project!r} wants wandb, which is missing: pip install errseg-jax[wandb], or leave the key "
      "empty"
    ) from None
  return wandb


class WandbRun:
  """The run of a workdir; a training that goes on goes on in the same run, by the id in WORKDIR/wandb_id.

  WANDB_MODE=offline keeps it in WORKDIR/wandb, for `wandb sync`; WANDB_MODE=disabled drops it.

  Args:
    project: its name there.
    workdir: of the run; its name is the run's.
    config: {"a.b": value}.

  Raises:
    UserError: wandb is missing, or refuses.
  """

  def __init__(self, project: str, workdir: pathlib.Path, config: Mapping[str, Any]):
    self.wandb = import_wandb(project)
    own = workdir / "wandb_id"
    if not own.exists():
      own.write_text(secrets.token_hex(8) + "\n")
    try:
      self.run = self.wandb.init(
        project=project,
        name=workdir.resolve().name,
        id=own.read_text().strip(),
        resume="allow",
        dir=str(workdir),
        config=dict(config),
      )
    except self.wandb.Error as error:
      raise UserError(
        f"config.train.wandb={project!r}: wandb refuses ({error}); log in (`wandb login`), set WANDB_MODE=offline, or "
        "leave the key empty"
      ) from None

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Values by name after a step of the whole run."""
    self.run.log(dict(values), step=step)

  def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
    """RGB uint8 [h, w, 3] by name."""
    self.run.log({name: self.wandb.Image(picture) for name, picture in pictures.items()}, step=step)

  def summary(self, values: Mapping[str, float]) -> None:
    """Final values by name."""
    self.run.summary.update(dict(values))

  def close(self) -> None:
    self.run.finish()
