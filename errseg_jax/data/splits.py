"""Which images train the semantic network, which train the branches, and which choose between results."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from errseg_jax.errors import UserError

ERROR_SOURCES = ("train", "holdout", "crossfit", "strong")


class Subset(Sequence):
  """Some samples of a source, by index."""

  def __init__(self, source: Any, indices: np.ndarray):
    self.source = source
    self.indices = indices

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, index):
    return self.source[int(self.indices[index])]

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(self.source.names[i] for i in self.indices)


def stretches(source: Any, count: int) -> list[Subset]:
  """`count` parts of about equal length: neighbours, which may be frames of one video, stay together.

  A source of fewer samples has a part for each.
  """
  parts = np.array_split(np.arange(len(source)), max(1, min(count, len(source))))
  return [Subset(source, part) for part in parts]


def held_out(count: int, fraction: float, offset: float, runs: int) -> np.ndarray:
  """Indices of a held-out share, as runs of neighbours spread over the list.

  Args:
    count: number of samples.
    fraction: share to hold out, 0..1.
    offset: where in its stretch a run starts, 0..1; parts with other offsets are disjoint if their
      fractions leave room.
    runs: how many; 0: one for each sample that is held out.
  """
  runs = runs or max(1, round(fraction * count))
  starts = (np.arange(runs) + offset) * count / runs
  ends = starts + fraction * count / runs
  # np.round takes halves to even numbers, by which single images would become none or two.
  edges = np.floor(np.stack([starts, ends], -1) + 0.5).astype(int)
  parts = [np.arange(*pair) for pair in edges]
  return np.unique(np.concatenate(parts).clip(0, count - 1)).astype(int) if fraction else np.zeros(0, int)


def folds(count: int, number: int, runs: int) -> list[np.ndarray]:
  """Indices of `number` disjoint parts that make up the whole, each of runs of neighbours as `held_out`.

  Args:
    count: of samples.
    number: of folds.
    runs: of each fold; 0: one for each sample.
  """
  parts = np.array_split(np.arange(count), max(number, min(count, number * runs if runs else count)))
  return [np.concatenate(parts[k::number]) for k in range(number)]


@dataclasses.dataclass(frozen=True)
class Splits:
  """The parts of a labelled data set and what each is for.

  Attributes:
    train: split that trains.
    val: split that is reported.
    choose: split on which threshold, fusion, calibration and best checkpoint are chosen; "" holds out
      `choose_fraction` of the training split, which then trains nothing. Naming `val` itself chooses both ways:
      on each half of its images for the other half.
    choose_fraction: that share.
    runs: of neighbours, that held-out images lie in: names that follow one another are often frames of one video, and
      an image held out by itself would have its near-duplicate in the training part. 0: each by itself, spread evenly,
      for single photographs, whose names are often sorted by what they show.
    error_source: "train": the branches learn from the errors on the semantic network's own training images
      (P0). "holdout": from images it never saw, `holdout_fraction` of the training split. "crossfit": `folds`
      networks are trained as it is, each without one fold of its images, and the branches learn on every image
      from the errors of the network that was trained without it. "strong": from the semantic network's own
      training images, augmented more strongly than it knows them.
    holdout_fraction: share of "holdout".
    folds: of "crossfit", 2 or more; each costs one more training of the semantic network.
    strength: of "strong", above 0 (`TrainTransform.stronger`).
  """

  train: str = "train"
  val: str = "val"
  choose: str = ""
  choose_fraction: float = 0.1
  runs: int = 4
  error_source: str = "train"
  holdout_fraction: float = 0.25
  folds: int = 3
  strength: float = 1.0

  @property
  def named(self) -> tuple[str, ...]:
    """The data set's splits that have a part in training or its scores."""
    return tuple(dict.fromkeys(name for name in (self.train, self.choose, self.val) if name))

  @property
  def both_ways(self) -> bool:
    """The reported split is the only unseen one: each half of it is chosen for on the other half."""
    return self.choose == self.val

  def sources(self, dataset: Any) -> dict[str, Any]:
    """Sources "semantic", "branches" and "choose" of a data set.

    With "crossfit" also "fold0", "fold1", ... and "without_fold0", ...: a fold of "semantic", and the rest of it.

    Raises:
      UserError: an unknown error source, shares that leave nothing to train on, or choosing on what trains.
    """
    if self.error_source not in ERROR_SOURCES:
      raise UserError(f"splits.error_source={self.error_source!r}: known are {', '.join(ERROR_SOURCES)}")
    if self.error_source == "strong" and self.strength <= 0:
      raise UserError(f"splits.strength={self.strength} must be above 0")
    if self.runs < 0:
      raise UserError(f"splits.runs={self.runs} must be 0 (images held out one by one) or more")
    if self.choose == self.train:
      raise UserError(
        f"splits.choose={self.choose!r} is also the training split: name another, or leave it empty "
        "to hold out splits.choose_fraction of the training images"
      )
    if self.val == self.train:
      raise UserError(f"splits.val={self.val!r} is the split that trains: its scores would say nothing")
    whole = dataset.source(self.train)
    choose = self.choose_fraction if not self.choose else 0.0
    hold = self.holdout_fraction if self.error_source == "holdout" else 0.0
    if not (choose >= 0 and hold >= 0 and choose + hold <= 0.9):
      raise UserError(
        "splits: choose_fraction and holdout_fraction must leave a tenth of the images to train on"
      )
    chosen = held_out(len(whole), choose, 0.05, self.runs)
    held = np.setdiff1d(held_out(len(whole), hold, 0.05 + choose, self.runs), chosen)
    rest = np.setdiff1d(np.arange(len(whole)), np.concatenate([chosen, held]))
    part = dataset.source(self.choose) if self.choose else Subset(whole, chosen)
    least = 4 if self.both_ways else 2
    if self.choose and len(part) < least:
      raise UserError(f"splits.choose={self.choose!r} has {len(part)} images; choosing needs {least} or more")
    if not len(rest) or len(part) < 2 or (hold and not len(held)):
      raise UserError(
        f"{len(whole)} training images are too few to hold some out: set splits.choose to a labelled split of its own"
      )
    semantic = Subset(whole, rest)
    return {
      "semantic": semantic,
      "branches": Subset(whole, held) if hold else semantic,
      "choose": part,
      **self._fold_sources(semantic),
    }

  def _fold_sources(self, semantic: Subset) -> dict[str, Subset]:
    if self.error_source != "crossfit":
      return {}
    if not 2 <= self.folds <= len(semantic):
      raise UserError(
        f"splits.folds={self.folds} must be at least 2 and at most the {len(semantic)} images of the semantic stage"
      )
    parts = [semantic.indices[fold] for fold in folds(len(semantic), self.folds, self.runs)]
    without = [np.setdiff1d(semantic.indices, part) for part in parts]
    out = {f"fold{k}": Subset(semantic.source, part) for k, part in enumerate(parts)}
    return out | {f"without_fold{k}": Subset(semantic.source, rest) for k, rest in enumerate(without)}
