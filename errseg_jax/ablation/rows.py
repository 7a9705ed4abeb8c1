"""The rows of an ablation: each one change of a config, trained in a workdir of its own."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from errseg_jax.ablation.alternatives import ALTERNATIVES, branch_steps, on_base
from errseg_jax.ablation.bn_group_rows import BN_GROUPS
from errseg_jax.ablation.cascade_rows import CASCADE
from errseg_jax.ablation.confusion_rows import CONFUSION
from errseg_jax.ablation.guidance_rows import GUIDANCE
from errseg_jax.config import paper

SEVERAL_NETWORKS = ("holdout", "crossfit")
"""Values of splits.error_source that want a semantic network trained for them."""


@dataclasses.dataclass(frozen=True)
class Row:
  """One line of the comparison.

  Attributes:
    description: what differs, in a few words.
    function: (config, workdir of the seed's base) -> the row's config.
    source: splits.error_source of the row; "" leaves the config's.
    anew: trains a semantic network from the start, so it takes a config without segmenter.init.
    family: one of FAMILIES.
  """

  description: str
  function: Callable[[ConfigDict, str], ConfigDict]
  source: str = "train"
  anew: bool = False
  family: str = "correction"

  def config(self, config: ConfigDict, base: str) -> ConfigDict:
    """The config that the row trains; `base` is the workdir of the seed's semantic network.

    Rows are scored on single views and without CRF, whatever the config says; those that are about these turn them on.
    """
    config = config.copy_and_resolve_references()
    config.splits.error_source = self.source or config.splits.error_source
    config.views.update(scales=(1.0,), mirror=False, combine="mean")
    config.crf.iterations = 0
    return self.function(config, base)


def semantic_only(config: ConfigDict, base: str, factor: int = 1) -> ConfigDict:
  """The semantic stage alone, for `factor` times its steps; a given network as it is."""
  config.order = ("semantic",)
  config.stages.semantic.steps *= factor
  return config


def trained_on(config: ConfigDict, base: str, folds: int = 0) -> ConfigDict:
  """The base trained on for the steps of both branches and of `folds` more semantic networks."""
  steps = branch_steps(config) + folds * config.stages.semantic.steps
  config = on_base(config, base)
  config.order = ("control",)
  config.stages.control.steps = steps
  return config


def trained_on_alike(config: ConfigDict, base: str) -> ConfigDict:
  """The base trained on with pixel loss, balance, Jaccard loss and averaged weights of the detail branch."""
  asked = config.detail_loss.to_dict()
  for key in ("pixel", "balance", "jaccard", "class_weights"):
    if key in asked:
      config.semantic_loss[key] = asked[key]
  config.stages.control.ema = config.stages.detail.ema
  return trained_on(config, base)


def branches(config: ConfigDict, base: str) -> ConfigDict:
  """The config's own branches: on the base, or after a network of their own where their images ask for one."""
  if config.splits.error_source not in SEVERAL_NETWORKS:
    return on_base(config, base)
  config.order = tuple(stage for stage in config.order if stage != "control")
  return config


def paper_branches(config: ConfigDict, base: str, t: float = 0.7) -> ConfigDict:
  """Branches, losses and fusion as published, at one threshold."""
  config = paper(on_base(config, base))
  config.detail_loss.t, config.choose.thresholds = t, (t,)
  return config


def with_prior(config: ConfigDict, base: str, prior: str) -> ConfigDict:
  """Another start of the error branch."""
  config = on_base(config, base)
  config.error_branch.prior = prior
  return config


def all_pixels(config: ConfigDict, base: str) -> ConfigDict:
  """The detail branch learns on every pixel alike."""
  config = on_base(config, base)
  config.detail_loss.weights = "all"
  return config


def _described(function: Callable[[ConfigDict, str], ConfigDict]) -> str:
  return (function.__doc__ or "").splitlines()[0].rstrip(".")


BASE, CONTROL = "base", "base_longer"
ROWS: dict[str, Row] = {
  BASE: Row("the semantic network", semantic_only),
  "base_doubled": Row(
    "the network trained for twice its steps: has it converged?",
    functools.partial(semantic_only, factor=2),
    anew=True,
  ),
  CONTROL: Row("the base trained on for the steps of both branches", trained_on),
  "base_longer_alike": Row(
    "the same with the detail branch's loss, so that what the loss gives is told from what the branch gives",
    trained_on_alike,
  ),
  "base_longest": Row(
    "the base trained on for the steps of both branches and of the fold networks of crossfit",
    lambda config, base: trained_on(config, base, config.splits.get("folds", 3)),
  ),
  "paper": Row("branches, losses and fusion as published, t = 0.7", paper_branches),
  **{
    f"paper_t{t}": Row(f"as published with t = {t}", functools.partial(paper_branches, t=t))
    for t in (0.5, 0.6, 0.8)
  },
  "default": Row("the config as it is", branches, source=""),
  "prior_none": Row("error branch from nothing", functools.partial(with_prior, prior="none")),
  "prior_msp": Row(
    "error branch as a correction of max probability",
    functools.partial(with_prior, prior="msp"),
  ),
  "weights_all": Row("detail branch learns on every pixel alike", all_pixels),
  "holdout": Row(
    "branches learn from images that the network never saw; its own network, of fewer images",
    branches,
    source="holdout",
    anew=True,
  ),
  "crossfit": Row(
    "branches learn from errors of fold networks on unseen images; its own networks",
    branches,
    source="crossfit",
    anew=True,
  ),
  "strong": Row("branches learn from strongly augmented images", branches, source="strong"),
  **{name: Row(_described(function), function) for name, function in ALTERNATIVES.items()},
  **{name: Row(_described(function), function, anew=True) for name, function in CASCADE.items()},
  **{name: Row(what, function, family="confusion") for name, (what, function) in CONFUSION.items()},
  **{name: Row(what, function, family="guidance") for name, (what, function) in GUIDANCE.items()},
  **{
    name: Row(what, function, anew=True, family="bn_groups") for name, (what, function) in BN_GROUPS.items()
  },
}
SHARED = {
  "correction": (BASE, CONTROL, "default"),
  "confusion": (BASE, CONTROL, "default"),
  "guidance": (BASE, CONTROL),
  "bn_groups": (BASE,),
}
"""Rows of a family beside its own."""
FAMILIES: dict[str, tuple[str, ...]] = {
  family: tuple(name for name, row in ROWS.items() if row.family == family or name in shared)
  for family, shared in SHARED.items()
}
"""What `--rows` may ask for at once: error prediction and correction (P0), confused classes (P1), guidance and groups
of batch normalisation (P3)."""
