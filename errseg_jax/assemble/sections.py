"""Sections of a config: every name and key is checked here, and defaults are filled in."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from errseg_jax import losses
from errseg_jax.adapters import ADAPTERS
from errseg_jax.data import datasets
from errseg_jax.errors import UserError
from errseg_jax.models.backbones import BACKBONES
from errseg_jax.models.cascade import Refine
from errseg_jax.models.confusion_groups import ConfusionGroups
from errseg_jax.models.crf import GuidanceCRF
from errseg_jax.models.detail_branches import DETAIL_BRANCHES
from errseg_jax.models.error_branches import ERROR_BRANCHES
from errseg_jax.models.guidance import Guidance
from errseg_jax.models.heads import HEADS
from errseg_jax.pixel_losses import PIXEL_LOSSES

# Fields of losses that are no settings: they follow from the order of the stages and from the stages before.
COMPUTED = ("max_probability", "calibration")

PIXEL_SECTIONS = ("semantic_loss", "subnets_loss", "detail_loss")
"""Sections with a sub-section `pixel`: the name of a pixel loss and its fields."""


def known(value: Any, names, where: str) -> Any:
  """`value` if it is one of `names`.

  Raises:
    UserError: it is not; lists them.
  """
  if value not in names:
    near = difflib.get_close_matches(str(value), [str(n) for n in names], 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(f"{where}={value!r} is unknown; {hint}known: {', '.join(map(str, names))}")
  return value


def construct(cls: type, section: Mapping[str, Any], where: str, **extra: Any) -> Any:
  """A class from a config section.

  Raises:
    UserError: a key that the class does not have.
  """
  fields = [f.name for f in dataclasses.fields(cls) if f.init and f.name not in ("parent", "name")]
  fields = [f for f in fields if f not in extra]
  for key in section:
    known(key, fields, f"config.{where}: key")
  values = {k: tuple(v) if isinstance(v, list) else v for k, v in section.items()}
  if missing := [f for f in fields if f not in values and f not in defaults(cls)]:
    raise UserError(f"config.{where} needs {', '.join(missing)}")
  return cls(**values, **extra)


def defaults(cls: type) -> dict[str, Any]:
  """The fields of a class that have a default, with it."""
  out = {}
  for field in dataclasses.fields(cls):
    if field.init and field.name not in ("parent", "name", "dtype"):
      if field.default is not dataclasses.MISSING:
        out[field.name] = field.default
      elif field.default_factory is not dataclasses.MISSING:
        out[field.name] = field.default_factory()
  return out


def kind_of(section: Mapping[str, Any]) -> Any:
  """A section's name, without what it is to read: "tfds" of "tfds:NAME"."""
  name = section.get("name")
  return "tfds" if str(name).startswith("tfds:") else name


def with_defaults(config: ConfigDict) -> ConfigDict:
  """Fills the sections that are the arguments of a class with the class's defaults.

  So config.json says all that was in force, and every field can be set by a flag.

  Raises:
    UserError: the name of an unknown data set, backbone, head, branch or pixel loss.
  """
  names = [
    (config.data, datasets.DATASETS, "config.data.name"),
    (config.segmenter.backbone, BACKBONES, "config.segmenter.backbone.name"),
    (config.segmenter.head, HEADS, "config.segmenter.head.name"),
    (config.error_branch, ERROR_BRANCHES, "config.error_branch.name"),
    (config.detail_branch, DETAIL_BRANCHES, "config.detail_branch.name"),
  ]
  if config.segmenter.adapter:
    names.append((config.segmenter.adapter, ADAPTERS, "config.segmenter.adapter.name"))
  for name in PIXEL_SECTIONS:
    config[name].pixel = pixel_section(config, name)
    names.append((config[name].pixel, PIXEL_LOSSES, f"config.{name}.pixel.name"))
  sections = [(s, registry[known(kind_of(s), registry, where)]) for s, registry, where in names]
  sections += [
    (config.guidance, Guidance),
    (config.guidance_loss, losses.GuidedLoss),
    (config.subnets, ConfusionGroups),
    (config.semantic_loss, losses.SemanticLoss),
    (config.subnets_loss, losses.SubnetsLoss),
    (config.error_loss, losses.ErrorLoss),
    (config.detail_loss, losses.DetailLoss),
    (config.cascade, Refine),
    (config.cascade_loss, losses.CascadeLoss),
    (config.crf, GuidanceCRF),
  ]
  for section, cls in sections:
    for key, value in defaults(cls).items():
      if key not in section and key not in COMPUTED:
        section[key] = placeholder(float) if value is None else value
  return config


def pixel_section(config: ConfigDict, section: str) -> ConfigDict:
  """The pixel loss of a loss's section; cross-entropy where it names none.

  Raises:
    UserError: it is no section.
  """
  pixel = config[section].get("pixel", ConfigDict({"name": "cross_entropy"}))
  if not isinstance(pixel, ConfigDict):
    raise UserError(f"config.{section}.pixel={pixel!r} is no section: write {{'name': {pixel!r}}}")
  return pixel


def check_numbers(config: ConfigDict) -> None:
  """Counts that something is divided by, and of what is drawn.

  Raises:
    UserError: one is below 1; of what is drawn, below 0.
  """
  for section, key in (("loader", "eval_batch_size"), ("loader", "size_multiple"), ("train", "log_every")):
    if config[section][key] < 1:
      raise UserError(f"config.{section}.{key}={config[section][key]} must be at least 1")
  if config.train.log_images < 0:
    raise UserError(f"config.train.log_images={config.train.log_images} must be at least 0")


def thresholds(config: ConfigDict) -> tuple[float, ...]:
  """The grid of t; what is counted between its values needs it in ascending order.

  Raises:
    UserError: it is empty, not ascending, or outside 0..1.
  """
  values = tuple(config.choose.thresholds)
  numbers = bool(values) and all(isinstance(t, int | float) and 0 < t < 1 for t in values)
  if not numbers or any(a >= b for a, b in itertools.pairwise(values)):
    raise UserError(f"config.choose.thresholds={values} must be ascending numbers between 0 and 1")
  return values


def as_tuples(value: Any) -> Any:
  """Lists and what is in them as tuples."""
  return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value
