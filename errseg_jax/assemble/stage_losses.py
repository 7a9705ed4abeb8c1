"""The losses of a config's stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from errseg_jax import losses
from errseg_jax.assemble.groups import named_groups
from errseg_jax.assemble.network import refine
from errseg_jax.assemble.sections import construct, known, pixel_section
from errseg_jax.data.frequencies import class_counts, class_frequencies
from errseg_jax.errors import UserError
from errseg_jax.pixel_losses import PIXEL_LOSSES, CrossEntropy, InverseFrequency, class_weights


def with_class_weights(config: ConfigDict, sources: Mapping[str, Any], num_classes: int) -> ConfigDict:
  """A copy whose losses name the class weights that `balance` or a pixel loss asks for, so config.json holds them.

  Weights given by hand stay.

  Args:
    config: of the run.
    sources: of `Splits.sources`; the labels of each loss's own training images are counted.
    num_classes: C.

  Raises:
    UserError: an unknown pixel loss, or one that weighs classes beside weights or a balance.
  """
  config = config.copy_and_resolve_references()
  users = (
    ("semantic_loss", {"semantic", "finetune", "guided", "guidance", "control", "cascade"}, "semantic"),
    ("detail_loss", {"detail"}, "branches"),
  )
  for name, stages, source in users:
    if not stages & set(config.order):
      continue
    section, pixel = config[name], pixel_loss(config, name)
    balance, given = section.get("balance", 0.0), section.get("class_weights", ())
    losses.check_weighed_once(pixel, balance, given, name)
    if balance and not given:
      section.class_weights = class_weights(class_frequencies(sources[source], num_classes), balance)
    if isinstance(pixel, InverseFrequency) and not pixel.class_weights:
      section.pixel.class_weights = pixel.counted(class_counts(sources[source], num_classes))
  return config


def pixel_loss(config: ConfigDict, section: str) -> CrossEntropy:
  """The pixel loss of a loss's section.

  Raises:
    UserError: an unknown name, key or value.
  """
  where, fields = f"{section}.pixel", pixel_section(config, section).to_dict()
  cls = PIXEL_LOSSES[known(fields.pop("name", None), PIXEL_LOSSES, f"config.{where}.name")]
  return construct(cls, fields, where)


def with_pixel_loss(cls: type, config: ConfigDict, section: str, **extra: Any) -> Any:
  """A loss from its section, with the pixel loss that the section names."""
  fields = {key: value for key, value in config[section].items() if key != "pixel"}
  return construct(cls, fields, section, pixel=pixel_loss(config, section), **extra)


def loss(config: ConfigDict, stage: str) -> Any:
  """The loss of a stage: a function of (Outputs, label); of a confusion matrix too where its `pixel` wants one."""
  if stage in ("semantic", "finetune", "control"):
    return with_pixel_loss(losses.SemanticLoss, config, "semantic_loss")
  if stage in ("guided", "guidance"):
    return construct(
      losses.GuidedLoss, config.guidance_loss, "guidance_loss", semantic=loss(config, "semantic")
    )
  if stage == "cascade":
    parts = {"semantic": loss(config, "semantic"), "error": loss(config, "error"), "refine": refine(config)}
    return construct(losses.CascadeLoss, config.cascade_loss, "cascade_loss", **parts)
  if stage == "subnets":
    return with_pixel_loss(losses.SubnetsLoss, config, "subnets_loss", groups=named_groups(config))
  if stage == "error":
    known(config.error_loss.get("target", "error"), losses.TARGETS, "config.error_loss.target")
    return construct(losses.ErrorLoss, config.error_loss, "error_loss")
  weights = known(config.detail_loss.get("weights", "mask"), losses.WEIGHTS, "config.detail_loss.weights")
  if (weights == "cascade") != (config.detail_branch.name == "layer_cascade"):
    raise UserError(
      f"config.detail_loss.weights={weights!r} does not fit config.detail_branch.name="
      f"{config.detail_branch.name!r}: 'cascade' and 'layer_cascade' go together"
    )
  order = tuple(config.order)
  first = "error" not in order or order.index("detail") < order.index("error")
  return with_pixel_loss(losses.DetailLoss, config, "detail_loss", max_probability=first)
