"""Confusion in training: the matrix that a loss names the confusion by, and the groups that subnets are for."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from errseg_jax import assemble
from errseg_jax.data.splits import Splits
from errseg_jax.errors import UserError
from errseg_jax.inference.confusion import load_confusion
from errseg_jax.pixel_losses import Confusion
from errseg_jax.train.state import Variables


@dataclasses.dataclass
class ConfusionInput:
  """Counts the confusion matrix of a stage's loss and puts it where the step finds it.

  Attributes:
    every: steps between two counts; 0: only at the start.
    count: variables of the trained groups -> counts [C, C], rows are truth.
    place: (counts) -> what the loss takes, on the devices.
    counts: in force now.
  """

  every: int
  count: Callable[[Variables], np.ndarray]
  place: Callable[[np.ndarray], Any]
  counts: np.ndarray

  def due(self, done: int) -> bool:
    """Whether the matrix is counted again after `done` steps."""
    return bool(self.every) and done > 0 and done % self.every == 0

  def recount(self, trained: Variables) -> None:
    """The matrix of the network as it is now."""
    self.counts = self.count(trained)

  def attached(self, frozen: Sequence[Variables]) -> list[Variables]:
    """Frozen variables with the matrix beside them; of one shape always, so that a step is compiled once."""
    matrix = self.place(self.counts)
    return [{**variables, "loss": {"confusion": matrix}} for variables in frozen]


USERS = {"finetune", "guided", "guidance", "control"}
"""Stages with the semantic stage's loss, that come after it."""


def check_confusion(losses: Mapping[str, Any], splits: Splits, given: bool) -> None:
  """Refuses confusion losses that would learn from what is reported, or never see a matrix.

  Args:
    losses: of the stages, by name.
    splits: of the run.
    given: the first stage starts from a trained network.

  Raises:
    UserError: one is counted on images that are also reported, or of a network from nothing and never again.
  """
  first = next(iter(losses))
  for stage, loss in losses.items():
    pixel = getattr(loss, "pixel", None)
    if not isinstance(pixel, Confusion):
      continue
    if pixel.on == "choose" and splits.both_ways:
      raise UserError(
        f"stage {stage!r}: pixel.on='choose' counts the confusion on split {splits.choose!r}, which is reported: "
        "set it to 'train'"
      )
    if stage == first and not given and not pixel.refresh and not USERS & losses.keys() - {first}:
      raise UserError(
        "semantic_loss.pixel.refresh=0: the network starts from nothing, so its confusion must be counted as it "
        "learns; set a number of steps, or train it with cross_entropy and on with stage 'finetune'"
      )


def with_groups(config: ConfigDict) -> ConfigDict:
  """A copy that names the groups of its subnets: the config's own, or those found in the given network's confusion.

  Raises:
    UserError: there is no network, nobody has counted its confusion, or it confuses no two classes enough.
  """
  if "subnets" not in config.order or config.groups.named or not config.segmenter.init:
    return config
  path = pathlib.Path(config.segmenter.init) / "confusion" / "train.json"
  if not path.exists():
    raise UserError(
      f"{path} is missing, and config.groups.named is empty: run errseg confusion --workdir={config.segmenter.init}"
    )
  counts, classes = load_confusion(path)
  if classes != tuple(assemble.dataset(config).info.classes):
    raise UserError(f"{path} is of other classes than this data set: run errseg confusion again")
  groups = assemble.group_finder(config, classes)(counts)
  if not groups:
    raise UserError(
      f"{path}: no two classes are confused more than config.groups.threshold={config.groups.threshold}; lower it"
    )
  config = config.copy_and_resolve_references()
  config.groups.named = tuple(tuple(classes[index] for index in group) for group in groups)
  return config
