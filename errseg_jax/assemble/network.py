"""The network of a config."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from errseg_jax.adapters import Adapted, Network
from errseg_jax.assemble.adapter import adapter
from errseg_jax.assemble.groups import named_groups
from errseg_jax.assemble.sections import as_tuples, construct, known, pixel_section
from errseg_jax.assemble.sight import tiles, views
from errseg_jax.errors import UserError
from errseg_jax.kernels import CHOICES
from errseg_jax.models.backbones import BACKBONES
from errseg_jax.models.cascade import COMBINATIONS, SELECTIONS, PyramidBranch, Refine
from errseg_jax.models.confusion_groups import RULES, ConfusionGroups
from errseg_jax.models.detail_branch import DetailBranch
from errseg_jax.models.detail_branches import DETAIL_BRANCHES
from errseg_jax.models.early_exit import EarlyExit
from errseg_jax.models.error_aware import FEATURES, ErrorAware
from errseg_jax.models.error_branch import PRIORS
from errseg_jax.models.error_branches import ERROR_BRANCHES
from errseg_jax.models.guidance import Guidance
from errseg_jax.models.heads import HEADS
from errseg_jax.models.layers import GATES, NORMS
from errseg_jax.models.segmenter import Segmenter
from errseg_jax.models.sparse import Sparse

LOW_STRIDES = (2, 4, 8, 16)  # that subnets may ask for

DTYPES = ("float32", "bfloat16", "float64")


@functools.lru_cache(maxsize=4)
def given(found: Any, num_classes: int) -> Network:
  """The network of an adapter; made once, however often a model is assembled."""
  return found.network(num_classes)


def segmenter(config: ConfigDict, num_classes: int) -> Segmenter | Adapted:
  """The semantic network."""
  section = config.segmenter
  if (found := adapter(config)) is not None:
    return Adapted(given(found, num_classes), tuple(section.mean))
  dtype = known(config.dtype, DTYPES, "config.dtype")
  known(section.channels, ("rgb", "bgr"), "config.segmenter.channels")
  backbone, head = section.backbone.to_dict(), section.head.to_dict()
  backbone_class = BACKBONES[known(backbone.pop("name"), BACKBONES, "config.segmenter.backbone.name")]
  head_class = HEADS[known(head.pop("name"), HEADS, "config.segmenter.head.name")]
  for part, fields, cls in (("backbone", backbone, backbone_class), ("head", head, head_class)):
    for key in cls.choices.keys() & fields.keys():
      known(fields[key], cls.choices[key], f"config.segmenter.{part}.{key}")
  return Segmenter(
    construct(backbone_class, backbone, "segmenter.backbone", dtype=dtype),
    construct(head_class, head, "segmenter.head", dtype=dtype, num_classes=num_classes),
    mean=tuple(section.mean),
    std=tuple(section.std),
    channels=section.channels,
    dtype=dtype,
  )


def model(config: ConfigDict, num_classes: int) -> ErrorAware:
  """The semantic network with its branches."""
  if num_classes < 2:
    raise UserError(f"the data set has {num_classes} class; a network needs two or more to tell apart")
  error, detail = config.error_branch.to_dict(), config.detail_branch.to_dict()
  known(error.get("prior", "none"), PRIORS, "config.error_branch.prior")
  known(detail.get("encoder", "missing"), ("missing", "all"), "config.detail_branch.encoder")
  for name, section in (("error_branch", error), ("detail_branch", detail)):
    known(section.get("gate", "sigmoid"), GATES, f"config.{name}.gate")
  known(detail.get("norm", "group"), NORMS, "config.detail_branch.norm")
  check_sizes(error, detail)
  error_class = ERROR_BRANCHES[known(error.pop("name"), ERROR_BRANCHES, "config.error_branch.name")]
  detail_class = DETAIL_BRANCHES[known(detail.pop("name"), DETAIL_BRANCHES, "config.detail_branch.name")]
  parts = (
    segmenter(config, num_classes),
    construct(error_class, error, "error_branch", dtype=config.dtype),
    construct(detail_class, detail, "detail_branch", dtype=config.dtype, num_classes=num_classes),
  )
  if detail_class is not PyramidBranch and len(parts[2].features) != len(parts[2].strides):
    raise UserError(
      f"config.detail_branch.features={parts[2].features} and strides={parts[2].strides} must be of one length"
    )
  checked_weights(config, "semantic_loss", num_classes)
  weights = checked_weights(config, "detail_loss", num_classes)
  whole = ErrorAware(
    *parts,
    detail_weights=weights,
    subnets=subnets(config, num_classes),
    guidance=guidance(config, num_classes),
    sparse=sparse(config, detail_class),
    views=views(config),
    tiles=tiles(config),
    features=known(config.segmenter.features, FEATURES, "config.segmenter.features"),
    kernels=known(config.kernels, CHOICES, "config.kernels"),
    num_devices=config.num_devices,
  )
  if whole.features != "all" and (whole.guidance is not None or "cascade" in config.order):
    raise UserError(
      f"config.segmenter.features={whole.features!r}: guidance and cascades need all of them; set it to 'all'"
    )
  exits = early_exit(config)
  if "cascade" not in config.order:
    if exits is not None:
      raise UserError(
        f"config.early_exit.threshold={exits.threshold} wants a cascade (config.order); set it to 0"
      )
    return whole
  if whole.views is not None and whole.views.share < 1:
    raise UserError(
      f"config.views.share={whole.views.share} is not for a cascade, whose fine network has its early exit: set it to 1"
    )
  return whole.clone(refine=refine(config), early_exit=exits, detail_weights=())


def check_sizes(error: Mapping[str, Any], detail: Mapping[str, Any]) -> None:
  """Refuses branches of nothing.

  Raises:
    UserError: too few channels, or a grid of no cell.
  """
  least = 0 if error["name"] == "attention" else 2  # 0: a quarter of the map's
  if error.get("features", 2) < least:
    raise UserError(f"config.error_branch.features={error['features']} must be at least {least}")
  if detail["name"] != "pyramid":
    return
  bins = as_tuples(detail.get("bins", (1,)))
  if not bins or not is_sizes(bins):
    raise UserError(f"config.detail_branch.bins={bins} must be grid sizes from 1 on, as (1, 2, 3, 6)")
  for key, value, lowest in (
    ("features", detail.get("features", 1), 1),
    ("bin_features", detail.get("bin_features", 0), 0),
  ):
    if type(value) is not int or value < lowest:
      raise UserError(f"config.detail_branch.{key}={value} must be a whole number from {lowest} on")


def refine(config: ConfigDict) -> Refine:
  """What the branches of a cascade come to."""
  section = config.cascade
  known(section.get("combine", "probabilities"), COMBINATIONS, "config.cascade.combine")
  known(section.get("selection", "soft"), SELECTIONS, "config.cascade.selection")
  return construct(Refine, section, "cascade")


def early_exit(config: ConfigDict) -> EarlyExit | None:
  """Where a cascade's fine network may stay away; None where it sees the whole image.

  Raises:
    UserError: a threshold that is no probability, a tile of nothing, or another branch than the pyramid.
  """
  exits = construct(EarlyExit, config.early_exit, "early_exit")
  if not 0 <= exits.threshold < 1:
    raise UserError(
      f"config.early_exit.threshold={exits.threshold} must be at least 0 (no early exit) and below 1"
    )
  if exits.tile < 1:
    raise UserError(f"config.early_exit.tile={exits.tile} must be at least 1")
  if exits.threshold and config.detail_branch.name != "pyramid":
    raise UserError(
      f"config.early_exit.threshold={exits.threshold} wants config.detail_branch.name='pyramid', not "
      f"{config.detail_branch.name!r}: set it to 0"
    )
  return exits if exits.threshold else None


def sparse(config: ConfigDict, detail_class: type) -> Sparse | None:
  """Where the detail branch works; None where it works everywhere, as a branch without decoder blocks does.

  Raises:
    UserError: a threshold that is no probability, or a tile of nothing.
  """
  found = construct(Sparse, config.sparse, "sparse")
  if not 0 <= found.threshold < 1:
    raise UserError(f"config.sparse.threshold={found.threshold} must be at least 0 (everywhere) and below 1")
  if found.tile < 1:
    raise UserError(f"config.sparse.tile={found.tile} must be at least 1")
  return found if found.threshold and detail_class is DetailBranch else None


def guidance(config: ConfigDict, num_classes: int) -> Guidance | None:
  """The guidance by image classification; None where no stage trains it.

  Raises:
    UserError: a size of nothing, or a dropout rate that is none.
  """
  if not {"guided", "guidance"} & {*config.order}:
    return None
  found = construct(Guidance, config.guidance, "guidance", dtype=config.dtype, num_classes=num_classes)
  for key in ("features", "hidden", "cells"):
    if getattr(found, key) < 1:
      raise UserError(f"config.guidance.{key}={getattr(found, key)} must be at least 1")
  if not 0 <= found.dropout < 1:
    raise UserError(f"config.guidance.dropout={found.dropout} must be at least 0 and below 1")
  return found


def subnets(config: ConfigDict, num_classes: int) -> ConfusionGroups | None:
  """The subnets of the groups of confused classes; None where no stage trains them.

  Raises:
    UserError: no group, one that is none of this data set's, or settings that are not one for each group.
  """
  if "subnets" not in config.order:
    return None
  section = config.subnets.to_dict()
  groups = named_groups(config)
  section = {key: as_tuples(value) for key, value in section.items()}
  known(section.get("rule", "known"), RULES, "config.subnets.rule")
  if (features := section.get("features", 2)) < 2:
    raise UserError(f"config.subnets.features={features} must be at least 2")
  for key in ("depth", "dilation"):
    values = section.get(key, (1,))
    if not is_sizes(values) or len(values) not in (1, len(groups)):
      raise UserError(
        f"config.subnets.{key}={values} must be (N,) for all groups, or a number for each of {len(groups)}, from 1 on"
      )
  strides = section.get("strides", ())
  each = strides if strides and not is_sizes(strides) else (strides,) * len(groups)
  if len(each) != len(groups) or not all(is_sizes(own) and set(own) <= set(LOW_STRIDES) for own in each):
    raise UserError(
      f"config.subnets.strides={strides} must be of {', '.join(map(str, LOW_STRIDES))}: (4,) for all groups, or "
      f"((4,),(8,)), a tuple for each of {len(groups)}"
    )
  return construct(
    ConfusionGroups, section, "subnets", dtype=config.dtype, num_classes=num_classes, groups=groups
  )


def is_sizes(values: Any) -> bool:
  """A tuple of whole numbers from 1 on."""
  return isinstance(values, tuple) and all(type(value) is int and value >= 1 for value in values)


def checked_weights(config: ConfigDict, section: str, num_classes: int) -> tuple[float, ...]:
  """The class weights of a loss, its own or those of its pixel loss; () without.

  Raises:
    UserError: they are not one positive number for each class.
  """
  given = tuple(config[section].get("class_weights", ()))
  counted = tuple(pixel_section(config, section).get("class_weights", ()))
  for weights, where in ((given, section), (counted, f"{section}.pixel")):
    if weights and len(weights) != num_classes:
      raise UserError(f"config.{where}.class_weights has {len(weights)} numbers for {num_classes} classes")
    if not all(0 < weight < math.inf for weight in weights):
      raise UserError(
        f"config.{where}.class_weights={weights} must be positive: to leave a class out map it to 255"
      )
  return given or counted
