"""P1's two-by-two, subnets or not with the plain loss or the one that names the confusion, and what it is held against.

Subnets and their fusion as published; a config's own are the row "default".

All start from the same trained semantic network, and take as many steps on top of it as the config's branches.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from errseg_jax.ablation.alternatives import branch_steps, on_base


def with_pixel_loss(config: ConfigDict, base: str, name: str) -> ConfigDict:
  """The base trained on with another loss of each pixel."""
  steps = branch_steps(config)
  config = on_base(config, base)
  config.order = ("control",)
  config.stages.control.steps = steps
  config.semantic_loss.pixel = pixel_section(config, name)
  if name.endswith("_frequency"):  # it weighs classes itself
    config.semantic_loss.balance, config.semantic_loss.class_weights = 0.0, ()
  return config


def published(config: ConfigDict, base: str) -> ConfigDict:
  """On the base, fused by the product rule and without a Jaccard loss."""
  config = on_base(config, base)
  config.subnets.rule, config.subnets_loss.jaccard = "product", 0.0
  return config


def subnets(config: ConfigDict, base: str) -> ConfigDict:
  """Subnets for the groups of confused classes, with plain cross-entropy."""
  steps = branch_steps(config)
  config = published(config, base)
  config.order = ("subnets",)
  config.stages.subnets.steps = steps
  config.subnets_loss.pixel = pixel_section(config, "cross_entropy")
  return config


def subnets_and_loss(config: ConfigDict, base: str) -> ConfigDict:
  """Both: the base trained on for half the steps, then its subnets, with the loss that names the confusion."""
  steps = branch_steps(config)
  config = published(config, base)
  config.order = ("finetune", "subnets")
  config.stages.finetune = config.stages.control.copy_and_resolve_references()
  config.stages.finetune.steps, config.stages.subnets.steps = steps - steps // 2, steps // 2
  for section in (config.semantic_loss, config.subnets_loss):
    section.pixel = pixel_section(config, "confusion")
  return config


def pixel_section(config: ConfigDict, name: str) -> ConfigDict:
  """The loss `name`, with the config's own settings where its subnets use it."""
  own = config.subnets_loss.pixel
  return own.copy_and_resolve_references() if own.name == name else ConfigDict({"name": name})


CONFUSION: dict[str, tuple[str, Callable[[ConfigDict, str], ConfigDict]]] = {
  "subnets": ("subnets for groups of confused classes, plain cross-entropy", subnets),
  "confusion_loss": (
    "the base trained on with the loss that names the confusion",
    functools.partial(with_pixel_loss, name="confusion"),
  ),
  "subnets_confusion_loss": ("both, in as many steps together", subnets_and_loss),
  **{
    name: (f"the base trained on with {what}", functools.partial(with_pixel_loss, name=name))
    for name, what in {
      "inverse_frequency": "classes weighted by inverse frequency",
      "median_frequency": "median frequency balancing",
      "ohem": "the hardest pixels only",
      "focal": "focal loss",
      "max_pooling": "loss max-pooling",
    }.items()
  },
}
