import dataclasses
from typing import Any

import numpy as np
import pytest

from errseg_jax import build
from errseg_jax.data.pipeline import train_batches
from errseg_jax.sharding import make_mesh, replicate, shard_batch
from errseg_jax.structs import Batch
from errseg_jax.train.initialise import initial_variables
from errseg_jax.train.optim import make_optimizer
from errseg_jax.train.stages import plan
from errseg_jax.train.state import TrainState, split
from errseg_jax.train.step import make_step


@dataclasses.dataclass
class Bench:
  """One stage, ready to step."""

  config: Any
  stage: Any
  model: Any
  tx: Any
  state: TrainState
  frozen: Any
  step: Any
  mesh: Any
  source: Any

  def batches(self, count):
    arrays = train_batches(
      self.source,
      build.transform(self.config),
      batch_size=self.stage.batch_size,
      seed=0,
      start=0,
      stop=count,
      threads=1,
    )
    return [Batch(**shard_batch(a, self.mesh)) for a in arrays]

  def run(self, count):
    """(losses, states after each step as numpy trees)."""
    losses, states, state = [], [], self.state
    for batch in self.batches(count):
      state, metrics = self.step(state, self.frozen, batch)
      losses.append(float(metrics["loss"]))
      states.append(state)
    self.state = state
    return np.array(losses), state


@pytest.fixture(scope="session")
def bench(tiny_config):
  """(stage name, devices, groups, **config changes) -> Bench."""

  def make(name, devices=1, groups=None, **changes):
    config = tiny_config(**changes)
    stage = {s.name: s for s in plan(config)}[name]
    stage = dataclasses.replace(stage, groups=groups or stage.groups)
    dataset, mesh = build.dataset(config), make_mesh(devices)
    model = build.model(config, dataset.info.num_classes)
    variables = replicate(initial_variables(model, config), mesh)
    trained, frozen = split(variables, stage.groups)
    tx = make_optimizer(stage.optimizer, stage.steps, trained["params"])
    state = replicate(TrainState.create(trained, tx, stage.ema > 0), mesh)
    step = make_step(model, stage, build.loss(config, name), tx, config.seed)
    return Bench(config, stage, model, tx, state, frozen, step, mesh, dataset.source("train"))

  return make
