"""From a config to its parts: data set, model, losses. Every name and key is checked here."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from errseg_jax import losses
from errseg_jax.data import datasets
from errseg_jax.data.class_groups import Groups, resolve
from errseg_jax.data.frequencies import class_frequencies
from errseg_jax.data.splits import Splits
from errseg_jax.data.transforms import TrainTransform
from errseg_jax.errors import UserError
from errseg_jax.metrics.class_groups import Discovery
from errseg_jax.models.backbones import BACKBONES
from errseg_jax.models.detail_branches import DETAIL_BRANCHES
from errseg_jax.models.error_aware import ErrorAware
from errseg_jax.models.error_branch import PRIORS, ErrorBranch
from errseg_jax.models.heads import HEADS
from errseg_jax.models.layers import GATES
from errseg_jax.models.segmenter import Segmenter

# Fields of losses that are no settings: they follow from the order of the stages and from the stages before.
COMPUTED = ("max_probability", "calibration")
DTYPES = ("float32", "bfloat16", "float64")


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


def with_defaults(config: ConfigDict) -> ConfigDict:
  """Fills the sections that are the arguments of a class with the class's defaults.

  So config.json says all that was in force, and every field can be set by a flag.

  Raises:
    UserError: the name of an unknown data set, backbone, head or detail branch.
  """
  names = (
    (config.data, datasets.DATASETS, "config.data.name"),
    (config.segmenter.backbone, BACKBONES, "config.segmenter.backbone.name"),
    (config.segmenter.head, HEADS, "config.segmenter.head.name"),
    (config.detail_branch, DETAIL_BRANCHES, "config.detail_branch.name"),
  )
  sections = [(s, registry[known(s.get("name"), registry, where)]) for s, registry, where in names]
  sections += [
    (config.error_branch, ErrorBranch),
    (config.semantic_loss, losses.SemanticLoss),
    (config.error_loss, losses.ErrorLoss),
    (config.detail_loss, losses.DetailLoss),
  ]
  for section, cls in sections:
    for key, value in defaults(cls).items():
      if key not in section and key not in COMPUTED:
        section[key] = placeholder(float) if value is None else value
  return config


def dataset(config: ConfigDict) -> datasets.Dataset:
  """The data set of `config.data`."""
  section = config.data.to_dict()
  return datasets.build(section.pop("name"), **section)


def splits(config: ConfigDict) -> Splits:
  """The parts of the data set and their roles."""
  return construct(Splits, config.splits, "splits")


def check_numbers(config: ConfigDict) -> None:
  """Counts that something is divided by.

  Raises:
    UserError: one is below 1.
  """
  for section, key in (("loader", "eval_batch_size"), ("loader", "size_multiple"), ("train", "log_every")):
    if config[section][key] < 1:
      raise UserError(f"config.{section}.{key}={config[section][key]} must be at least 1")


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


def pad_value(config: ConfigDict) -> tuple[int, int, int]:
  """RGB colour of padding: the mean that preprocessing subtracts."""
  r, g, b = (round(m) for m in config.segmenter.mean)
  return r, g, b


def transform(config: ConfigDict, source: str = "semantic") -> TrainTransform:
  """Augmentation of the images of a training source; "strong" errors come from what the branches are fed."""
  plain = construct(TrainTransform, config.transform, "transform", pad_value=pad_value(config))
  strong = source == "branches" and config.splits.error_source == "strong"
  return plain.stronger(config.splits.strength) if strong else plain


def segmenter(config: ConfigDict, num_classes: int) -> Segmenter:
  """The semantic network."""
  section = config.segmenter
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
  detail_class = DETAIL_BRANCHES[known(detail.pop("name"), DETAIL_BRANCHES, "config.detail_branch.name")]
  parts = (
    segmenter(config, num_classes),
    construct(ErrorBranch, error, "error_branch", dtype=config.dtype),
    construct(detail_class, detail, "detail_branch", dtype=config.dtype, num_classes=num_classes),
  )
  if len(parts[2].features) != len(parts[2].strides):
    raise UserError(
      f"config.detail_branch.features={parts[2].features} and strides={parts[2].strides} must be of one length"
    )
  checked_weights(config, "semantic_loss", num_classes)
  return ErrorAware(*parts, detail_weights=checked_weights(config, "detail_loss", num_classes))


def checked_weights(config: ConfigDict, section: str, num_classes: int) -> tuple[float, ...]:
  """The class weights of a loss; () without.

  Raises:
    UserError: they are not one positive number for each class.
  """
  weights = tuple(config[section].get("class_weights", ()))
  if weights and len(weights) != num_classes:
    raise UserError(f"config.{section}.class_weights has {len(weights)} numbers for {num_classes} classes")
  if not all(0 < weight < math.inf for weight in weights):
    raise UserError(
      f"config.{section}.class_weights={weights} must be positive: to leave a class out map it to 255"
    )
  return weights


def with_class_weights(config: ConfigDict, sources: Mapping[str, Any], num_classes: int) -> ConfigDict:
  """A copy whose losses name the class weights that their `balance` asks for, so config.json holds them.

  Weights given by hand stay.

  Args:
    config: of the run.
    sources: of `Splits.sources`; the labels of each loss's own training images are counted.
    num_classes: C.
  """
  config = config.copy_and_resolve_references()
  users = (
    (config.semantic_loss, {"semantic", "control"}, "semantic"),
    (config.detail_loss, {"detail"}, "branches"),
  )
  for section, stages, source in users:
    if section.get("balance", 0.0) and not section.get("class_weights", ()) and stages & set(config.order):
      shares = class_frequencies(sources[source], num_classes)
      section.class_weights = losses.class_weights(shares, section.balance)
  return config


def group_finder(config: ConfigDict, classes: Sequence[str]) -> Callable[[np.ndarray], Groups]:
  """(confusion matrix [C, C]) -> groups of confused classes: those that the config names, or those that are found.

  Raises:
    UserError: an unknown class or method, a number out of range, or groups that are none.
  """
  section = config.groups.to_dict()
  named = section.pop("named")
  discovery = construct(Discovery, section, "groups")
  if not named:
    return discovery
  groups = resolve(named, classes)
  return lambda counts: groups


def loss(config: ConfigDict, stage: str) -> Any:
  """The loss of a stage: a function of (Outputs, label)."""
  if stage in ("semantic", "control"):
    return construct(losses.SemanticLoss, config.semantic_loss, "semantic_loss")
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
  return construct(losses.DetailLoss, config.detail_loss, "detail_loss", max_probability=first)
