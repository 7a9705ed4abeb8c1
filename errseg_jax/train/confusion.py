"""The confusion matrix that a loss names the confusion by: counted when a stage starts, and every so many steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

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
