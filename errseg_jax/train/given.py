"""The semantic networks of other runs, and their guidance."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from errseg_jax import assemble
from errseg_jax.adapters import given_weights
from errseg_jax.errors import UserError
from errseg_jax.models.error_aware import ErrorAware
from errseg_jax.train.checkpoints import StageCheckpoints
from errseg_jax.train.stages import Stage, plan
from errseg_jax.train.state import Variables, merge, split
from errseg_jax.train.workdir import load_config

PREPROCESSING = ("mean", "std", "channels", "size_remainder")
HOLDS_OUT = ("train", "choose", "choose_fraction", "runs")
HOLDS_OUT_MORE = ("error_source", "holdout_fraction")  # where either run's error_source is "holdout"


def abstract_image(model: ErrorAware) -> jax.ShapeDtypeStruct:
  """A batch of one; any size gives the same variables."""
  return jax.ShapeDtypeStruct((1, 64, 64, model.image_channels), jnp.uint8)


def abstract_variables(model: ErrorAware) -> Variables:
  """Shapes and types of all groups, to restore into."""
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  shapes = jax.eval_shape(model.init, jax.random.key(0), abstract_image(model))
  return {
    "batch_stats": {},
    **jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), shapes),
  }


def check_given(config: ConfigDict) -> None:
  """A given network must see its images as it was trained to, and none that it was trained on as unseen.

  Raises:
    UserError: preprocessing differs from that of the other run, or the images that are held out do.
  """
  given = load_config(pathlib.Path(config.segmenter.init))
  for what, stages in (("guidance", {"guided", "guidance"}), ("subnets", {"subnets"})):
    if stages & {*given.order} and not stages & {*config.order}:
      raise UserError(
        f"segmenter.init={config.segmenter.init} has {what}, which would be left behind: train it in this run too, "
        f"config.order={(what, *config.order)}, or give a network without"
      )
  pairs = [(f"segmenter.{key}", given.segmenter[key], config.segmenter[key]) for key in PREPROCESSING]
  if _images(given) == _images(config) and (
    not config.splits.choose or config.splits.error_source == "holdout"
  ):
    holdout = "holdout" in (given.splits.error_source, config.splits.error_source)
    keys = HOLDS_OUT + HOLDS_OUT_MORE if holdout else HOLDS_OUT
    pairs += [(f"splits.{key}", given.splits[key], config.splits[key]) for key in keys]
  for key, there, here in pairs:
    if there != here:
      raise UserError(
        f"segmenter.init={config.segmenter.init} was trained with {key}={there!r}, this config has {here!r}: "
        "set the same"
      )


def _images(config: ConfigDict) -> dict[str, Any]:
  """What says which images a config is about, at whatever size and in whatever place they are read."""
  return {key: value for key, value in config.data.items() if key not in ("root", "downscale")}


def segmenter_of(workdir: pathlib.Path, like: Variables) -> Variables:
  """The semantic network of another run, without guidance and subnets.

  Raises:
    UserError: no run, not trained, or another architecture or class count.
  """
  config = load_config(workdir)
  stages = {stage.name: stage for stage in plan(config)}
  last = next((name for name in ("guided", "finetune", "semantic", "cascade") if name in stages), "")
  if not last and config.segmenter.init:
    return segmenter_of(pathlib.Path(config.segmenter.init), like)
  if not last:
    return adapted(assemble.segmenter(config, assemble.dataset(config).info.num_classes))
  try:
    return _trained(config, workdir, stages[last], like, "segmenter")
  except UserError as error:
    if "segmenter/head" not in str(error) or "segmenter/backbone" in str(error):
      raise
    raise UserError(
      f"{error}. For other classes or another head take its backbone alone: "
      f"--config.segmenter.backbone_weights={workdir}"
    ) from None


def adapted(segmenter: Any) -> Variables:
  """The weights of an adapted network, of whatever it was made from."""
  return {"params": {"segmenter": given_weights(segmenter)}, "batch_stats": {}}


def guidance_of(workdir: pathlib.Path, like: Variables) -> Variables:
  """The guidance of another run; nothing where it has none.

  Raises:
    UserError: not trained, or of other sizes.
  """
  config = load_config(workdir)
  stage = next((stage for stage in plan(config) if "guidance" in stage.groups), None)
  return {} if stage is None else _trained(config, workdir, stage, like, "guidance")


def _trained(
  config: ConfigDict, workdir: pathlib.Path, stage: Stage, like: Variables, group: str
) -> Variables:
  """One group of what a stage of another run handed on, of the shapes of `like`."""
  if others := {*stage.groups} - {group}:  # trained, and saved, with it
    model = assemble.model(config, assemble.dataset(config).info.num_classes)
    like = merge(split(abstract_variables(model), others)[0], like)
  checkpoints = StageCheckpoints(workdir, stage.name, stage.steps, config.train.select, create=False)
  try:
    return split(checkpoints.result(like), (group,))[0]
  finally:
    checkpoints.close()


def backbone_of(workdir: pathlib.Path) -> Variables:
  """The backbone of another run's semantic network, whatever its head and classes.

  Raises:
    UserError: no run, or not trained.
  """
  config = load_config(workdir)
  model = assemble.model(config, assemble.dataset(config).info.num_classes)
  whole = segmenter_of(workdir, split(abstract_variables(model), ("segmenter",))[0])
  return {kind: tree.get("segmenter", {}).get("backbone", {}) for kind, tree in whole.items()}
