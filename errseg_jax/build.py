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
from errseg_jax.data.frequencies import class_counts, class_frequencies
from errseg_jax.data.splits import Splits
from errseg_jax.data.transforms import TrainTransform
from errseg_jax.errors import UserError
from errseg_jax.metrics.class_groups import Discovery
from errseg_jax.models.backbones import BACKBONES
from errseg_jax.models.confusion_groups import RULES, ConfusionGroups
from errseg_jax.models.detail_branches import DETAIL_BRANCHES
from errseg_jax.models.error_aware import ErrorAware
from errseg_jax.models.error_branch import PRIORS, ErrorBranch
from errseg_jax.models.heads import HEADS
from errseg_jax.models.layers import GATES
from errseg_jax.models.segmenter import Segmenter
from errseg_jax.pixel_losses import PIXEL_LOSSES, CrossEntropy, InverseFrequency, class_weights

# Fields of losses that are no settings: they follow from the order of the stages and from the stages before.
COMPUTED = ("max_probability", "calibration")
LOW_STRIDES = (2, 4, 8, 16)  # that subnets may ask for
DTYPES = ("float32", "bfloat16", "float64")
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


def with_defaults(config: ConfigDict) -> ConfigDict:
  """Fills the sections that are the arguments of a class with the class's defaults.

  So config.json says all that was in force, and every field can be set by a flag.

  Raises:
    UserError: the name of an unknown data set, backbone, head, detail branch or pixel loss.
  """
  names = [
    (config.data, datasets.DATASETS, "config.data.name"),
    (config.segmenter.backbone, BACKBONES, "config.segmenter.backbone.name"),
    (config.segmenter.head, HEADS, "config.segmenter.head.name"),
    (config.detail_branch, DETAIL_BRANCHES, "config.detail_branch.name"),
  ]
  for name in PIXEL_SECTIONS:
    config[name].pixel = pixel_section(config, name)
    names.append((config[name].pixel, PIXEL_LOSSES, f"config.{name}.pixel.name"))
  sections = [(s, registry[known(s.get("name"), registry, where)]) for s, registry, where in names]
  sections += [
    (config.subnets, ConfusionGroups),
    (config.error_branch, ErrorBranch),
    (config.semantic_loss, losses.SemanticLoss),
    (config.subnets_loss, losses.SubnetsLoss),
    (config.error_loss, losses.ErrorLoss),
    (config.detail_loss, losses.DetailLoss),
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
  weights = checked_weights(config, "detail_loss", num_classes)
  return ErrorAware(*parts, detail_weights=weights, subnets=subnets(config, num_classes))


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


def as_tuples(value: Any) -> Any:
  """Lists and what is in them as tuples."""
  return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


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
    ("semantic_loss", {"semantic", "finetune", "control"}, "semantic"),
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


def named_groups(config: ConfigDict) -> Groups:
  """The groups of confused classes that a config names.

  Raises:
    UserError: it names none, or one that is none of this data set's.
  """
  if not config.groups.named:
    raise UserError(
      "config.groups.named is empty: name tuples of classes, or take those that a trained network confuses: "
      "errseg confusion --workdir=W, then --config.segmenter.init=W"
    )
  return resolve(config.groups.named, dataset(config).info.classes)


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
  """The loss of a stage: a function of (Outputs, label); of a confusion matrix too where its `pixel` wants one."""
  if stage in ("semantic", "finetune", "control"):
    return with_pixel_loss(losses.SemanticLoss, config, "semantic_loss")
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
