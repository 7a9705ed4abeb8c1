"""What each training stage trains, from which images, and how it is scored."""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Iterable

from ml_collections import ConfigDict

from errseg_jax.assemble import construct, known
from errseg_jax.config import network_given
from errseg_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Kind:
  """The fixed part of a stage.

  Attributes:
    groups: top-level parameter groups it trains. "finetune" trains a given network on, and unlike "control" hands
      it to the stages after it. "guided" trains the network together with its guidance, from the start or on
      (P3); "guidance" the guidance of a frozen one. "cascade" trains a whole network at once (P2).
    wanted: branches its loss needs; the error branch runs in the detail stage where it is trained already.
    source: part of the training images, a key of `Splits.sources`.
    score: name of the score on the choose split that picks the best checkpoint.
    aside: a comparison; later stages and the model do without its result.
  """

  groups: tuple[str, ...]
  wanted: tuple[str, ...]
  source: str
  score: str
  aside: bool = False


KINDS = {
  "semantic": Kind(("segmenter",), (), "semantic", "semantic/mIoU"),
  "finetune": Kind(("segmenter",), (), "semantic", "semantic/mIoU"),
  "guided": Kind(("segmenter", "guidance"), (), "semantic", "semantic/mIoU"),
  "guidance": Kind(("guidance",), (), "branches", "semantic/mIoU"),
  "subnets": Kind(("subnets",), (), "branches", "semantic/mIoU"),
  "error": Kind(("error",), ("error",), "branches", "error/AUPR_error"),
  "detail": Kind(("detail",), ("detail",), "branches", "fused/mIoU"),
  "control": Kind(("segmenter",), (), "semantic", "semantic/mIoU", aside=True),
  "cascade": Kind(("segmenter", "error", "detail"), ("error", "detail"), "semantic", "fused/mIoU"),
}

BRANCHES = ("guidance", "subnets", "error", "detail")
RANKS = {"semantic": 0, "finetune": 1, "guided": 2, "guidance": 2, "subnets": 3, "error": 4, "detail": 4}
FIRST = ("semantic", "guided")
"""Kinds that train a network from the start."""


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stage of a run: its kind and its numbers.

  Attributes:
    name: of its checkpoints, metrics and seed.
    kind: its key in `KINDS` and `config.stages`; the fold stages of "crossfit" are of kind "semantic".
    restarts: from the variables that the run started with, as the semantic stage did.
    folds: the fold stages whose errors it learns from: step i sees images of the i mod K-th fold through the
      network that was trained without them. Empty: it sees `source` through the frozen network of the run.
  """

  name: str
  kind: str
  groups: tuple[str, ...]
  wanted: tuple[str, ...]
  source: str
  score: str
  aside: bool
  restarts: bool
  folds: tuple[str, ...]
  steps: int
  batch_size: int
  eval_every: int
  save_every: int
  ema: float
  optimizer: ConfigDict

  def seed(self, run_seed: int) -> int:
    """Seed of order, augmentation and dropout: of the stage's name, so it is the same in any order of stages."""
    return (run_seed * 1_000_003 + zlib.crc32(self.name.encode())) % 2**31

  def __post_init__(self):
    for key, least in (("steps", 1), ("batch_size", 1), ("eval_every", 0), ("save_every", 1)):
      if getattr(self, key) < least:
        raise UserError(f"stages.{self.kind}.{key}={getattr(self, key)} must be at least {least}")
    if not 0 <= self.ema < 1:
      raise UserError(f"stages.{self.kind}.ema={self.ema} must be at least 0 and below 1")
    if not 0 <= self.optimizer.warmup_steps < self.steps:
      raise UserError(
        f"stages.{self.kind}.optimizer.warmup_steps={self.optimizer.warmup_steps} must be below its {self.steps} steps"
      )


def plan(config: ConfigDict) -> list[Stage]:
  """The stages of a config in order; a given network (`segmenter.init`) needs no semantic stage.

  Where the branches learn from the errors of other networks ("crossfit"), those train after the semantic stage.

  Raises:
    UserError: an unknown or repeated stage, an order that the branches' options exclude, or folds of a network
      that is given.
  """
  order = [known(name, KINDS, "config.order: stage") for name in config.order]
  if len(set(order)) != len(order):
    raise UserError(f"config.order={tuple(order)}: a stage is named twice")
  if "cascade" in order:
    if len(order) > 1:
      raise UserError(f"config.order={tuple(order)}: 'cascade' trains everything at once, so it stands alone")
    if config.splits.error_source not in ("train", "strong"):
      raise UserError(
        f"config.splits.error_source={config.splits.error_source!r}: a cascade learns from its own errors as they "
        "are in each step; set it to 'train'"
      )
  elif network_given(config):
    order = [name for name in order if name != "semantic"]
  elif not {*FIRST} & {*order}:
    raise UserError(
      "config.order has no semantic stage, and neither segmenter.init nor segmenter.adapter names a network"
    )
  elif order[0] not in FIRST:
    raise UserError(f"config.order={tuple(order)}: the other stages need the semantic stage before them")
  _check_order(order)
  _check_prior(config, order)
  folds = _folds(config, order)
  stages = []
  for number, name in enumerate(order):
    fields = {"name": name, "kind": name, "restarts": False, "folds": (), **dataclasses.asdict(KINDS[name])}
    if name == "detail" and "error" in order[:number]:
      fields["wanted"] = ("error", "detail")
    if name in BRANCHES:
      fields["folds"] = folds
    planned = [fields]
    if name == "semantic":
      aside = {"aside": True, "restarts": True}
      planned += [{**fields, **aside, "name": fold, "source": f"without_{fold}"} for fold in folds]
    stages += [construct(Stage, config.stages[name], f"stages.{name}", **values) for values in planned]
  return stages


def trained_branches(stages: Iterable[Stage]) -> tuple[str, ...]:
  """Which of the error and the detail branch some stages train."""
  groups = {group for stage in stages for group in stage.groups}
  return tuple(branch for branch in ("error", "detail") if branch in groups)


def _folds(config: ConfigDict, order: list[str]) -> tuple[str, ...]:
  """Names of the fold stages, and of the folds that they do without."""
  if config.splits.error_source != "crossfit" or not set(BRANCHES) & set(order):
    return ()
  if changed := {"finetune", "guided", "guidance", "subnets"} & set(order):
    raise UserError(
      f"config.splits.error_source='crossfit' and stage {min(changed)!r} exclude each other: the fold networks are "
      "without it, so their errors would be those of another network"
    )
  if given := network_given(config):
    raise UserError(
      "config.splits.error_source='crossfit' trains the semantic network anew without each fold, which a given one "
      f"({given}) cannot be: choose another error_source"
    )
  return tuple(f"fold{k}" for k in range(config.splits.folds))


def _check_order(order: list[str]) -> None:
  """The frozen network must be whole before branches learn from its errors.

  Raises:
    UserError: it changes after them.
  """
  if {"guided", "guidance"} <= {*order}:
    raise UserError(
      f"config.order={tuple(order)}: 'guided' trains the guidance with the network, 'guidance' on a frozen one; "
      "leave one out"
    )
  if {"guided", "control"} <= {*order}:
    raise UserError(
      f"config.order={tuple(order)}: 'control' trains the network on without the guidance that it was trained "
      "with; leave one out"
    )
  places = [(RANKS[name], name) for name in order if name in RANKS]
  for (before, first), (after, second) in itertools.pairwise(places):
    if after < before:
      raise UserError(
        f"config.order={tuple(order)}: {second!r} changes the network that {first!r} learns from; put it first"
      )


def _check_prior(config: ConfigDict, order: list[str]) -> None:
  prior = config.error_branch.get("prior", "none")
  late = "detail" not in order or order.index("detail") > order.index("error") if "error" in order else False
  if prior == "detail" and late:
    raise UserError(
      "config.error_branch.prior='detail' needs the detail stage before the error stage: "
      "config.order=('semantic', 'detail', 'error')"
    )
