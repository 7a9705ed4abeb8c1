"""What error prediction and correction are held against (P0, Table 3): each a change of a config.

All start from the same trained semantic network, and take as many steps as the config's two branches together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from errseg_jax.models.heads import HEADS
from errseg_jax.train.stages import BRANCHES

ON_TOP = ("guided", *BRANCHES)
"""Stages whose steps come on top of the base."""


def branch_steps(config: ConfigDict) -> int:
  """Steps of the config's branches and guidance: what every row may spend on top of the base."""
  return sum(config.stages[name].steps for name in ON_TOP if name in config.order)


def on_base(config: ConfigDict, base: str) -> ConfigDict:
  """A copy whose frozen network is that of the workdir `base`."""
  config = config.copy_and_resolve_references()
  config.segmenter.init = base
  config.order = tuple(stage for stage in config.order if stage in ON_TOP)
  return config


def one_decoder(config: ConfigDict, base: str, weights: str, fusion: str) -> ConfigDict:
  """The detail branch alone, as published, for the steps of both branches; the error branch is not asked."""
  config = on_base(config, base)
  steps = branch_steps(config)
  config.order = ("detail",)
  config.stages.detail.steps = steps
  config.detail_branch.residual, config.detail_branch.encoder = False, "missing"
  config.detail_loss.weights, config.detail_loss.balance = weights, 0.0
  config.detail_loss.jaccard, config.detail_loss.class_weights = 0.0, ()
  config.detail_loss.pixel = {"name": "cross_entropy"}
  config.choose.fusions = (fusion,)
  return config


def gau_decoder(config: ConfigDict, base: str) -> ConfigDict:
  """The detail branch's decoder in place of the network's own."""
  return one_decoder(config, base, "all", "detail")


def bagging(config: ConfigDict, base: str) -> ConfigDict:
  """The same decoder, its probabilities averaged with the network's."""
  return one_decoder(config, base, "all", "mean")


def hard_mining(config: ConfigDict, base: str) -> ConfigDict:
  """The same decoder, trained on the 20 % of pixels with the largest loss."""
  return one_decoder(config, base, "rank", "detail")


def layer_cascade(config: ConfigDict, base: str) -> ConfigDict:
  """Two such decoders in a row, each on the pixels that everything before it was unsure of."""
  config = one_decoder(config, base, "cascade", "detail")
  config.detail_branch.name = "layer_cascade"
  return config


def averaging(config: ConfigDict, base: str) -> ConfigDict:
  """The config's own branches, fused by plain averaging."""
  config = on_base(config, base)
  config.choose.fusions = ("mean",)
  return config


def dupsampling(config: ConfigDict, base: str) -> ConfigDict:
  """A DUpsampling decoder on the base's backbone, both trained on."""
  config = config.copy_and_resolve_references()
  steps = branch_steps(config)
  config.segmenter.init, config.segmenter.backbone_weights = "", base
  own = {field.name for field in dataclasses.fields(HEADS["dupsampling"])}
  shared = {key: value for key, value in config.segmenter.head.to_dict().items() if key in own}
  config.segmenter.head = {**shared, "name": "dupsampling"}
  config.order = ("semantic",)
  config.stages.semantic.steps = steps
  return config


def true_class_probability(config: ConfigDict, base: str, normalised: bool = False) -> ConfigDict:
  """ConfidNet's target for the error branch, which looks at the frozen network alone."""
  config = on_base(config, base)
  config.order = ("error", "detail")
  config.error_branch.prior = "none"
  config.error_loss.target = "tcp_normalised" if normalised else "tcp"
  config.error_loss.w3 = placeholder(float)
  return config


def normalised_true_class_probability(config: ConfigDict, base: str) -> ConfigDict:
  """The same with the true class's probability divided by the largest."""
  return true_class_probability(config, base, normalised=True)


ALTERNATIVES: dict[str, Callable[[ConfigDict, str], ConfigDict]] = {
  "gau_decoder": gau_decoder,
  "dupsampling": dupsampling,
  "layer_cascade": layer_cascade,
  "hard_mining": hard_mining,
  "bagging": bagging,
  "averaging": averaging,
  "confidnet": true_class_probability,
  "confidnet_normalised": normalised_true_class_probability,
}
