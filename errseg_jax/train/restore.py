"""What a finished run left in its workdir, loaded."""

from __future__ import annotations

import pathlib
from typing import Any

from ml_collections import ConfigDict

from errseg_jax import assemble
from errseg_jax.inference.choice import Choice
from errseg_jax.inference.network import TrainedNetwork
from errseg_jax.inference.tuned import tuned_arrays
from errseg_jax.train.checkpoints import StageCheckpoints
from errseg_jax.train.given import abstract_variables, adapted, segmenter_of
from errseg_jax.train.stages import Stage, plan, trained_branches
from errseg_jax.train.state import Variables, merge, split
from errseg_jax.train.workdir import load_config


def trained_variables(config: ConfigDict, workdir: pathlib.Path, model: Any) -> Variables:
  """The variables that a finished run left: the given network and each stage's result, nothing untrained.

  Raises:
    UserError: a stage has no checkpoint, or it does not fit.
  """
  like, variables = abstract_variables(model), Variables()
  if config.segmenter.adapter:
    variables = adapted(model.segmenter)
  if config.segmenter.init:
    variables = segmenter_of(pathlib.Path(config.segmenter.init), split(like, ("segmenter",))[0])
  for stage in plan(config):
    if not stage.aside:
      variables = merge(variables, stage_result(config, workdir, stage, like))
  return variables


def resting_variables(
  config: ConfigDict, workdir: pathlib.Path, model: Any, with_crf: bool = True
) -> Variables:
  """`trained_variables`, and what `errseg tune` found where the config asks for it.

  Args:
    config: of the workdir, with changes of this call.
    workdir: of a finished run.
    model: its network.
    with_crf: the CRF's settings are wanted too.

  Raises:
    UserError: as `trained_variables`, and `tuned_arrays`.
  """
  tuned = tuned_arrays(config, workdir, with_crf)
  variables = trained_variables(config, workdir, model)
  return {**variables, "tuned": tuned} if tuned else variables


def stage_result(config: ConfigDict, workdir: pathlib.Path, stage: Stage, like: Variables) -> Variables:
  """What one stage of a run handed on; `like` has at least the shapes of its groups."""
  checkpoints = StageCheckpoints(workdir, stage.name, stage.steps, config.train.select, create=False)
  try:
    like = {kind: tree for kind, tree in like.items() if kind != "tuned"}  # no stage trains it
    return checkpoints.result(split(like, stage.groups)[0])
  finally:
    checkpoints.close()


def load(workdir: str | pathlib.Path, config: ConfigDict | None = None) -> TrainedNetwork:
  """The network that `errseg train` left in a workdir.

  Args:
    workdir: of a finished run.
    config: its config with changes of this call, such as another dtype; None reads it.

  Raises:
    UserError: no run there, not finished, or damaged.
  """
  workdir = pathlib.Path(workdir)
  config = load_config(workdir) if config is None else config
  branches = trained_branches(plan(config))
  choice = Choice.load(workdir) if "detail" in branches else Choice()
  info = assemble.dataset(config).info
  model = assemble.model(config, info.num_classes)
  variables = resting_variables(config, workdir, model)
  return TrainedNetwork(config, info, model, variables, choice, branches, assemble.crf(config))
