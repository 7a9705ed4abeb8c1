import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from errseg_jax import assemble
from errseg_jax.data.pipeline import train_batches
from errseg_jax.sharding import make_mesh, place, shard_batch
from errseg_jax.structs import Batch
from errseg_jax.train.initialise import initial_variables
from errseg_jax.train.optim import make_optimizer
from errseg_jax.train.stages import plan
from errseg_jax.train.state import TrainState, merge, split
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
  sources: Any
  in_turn: Any

  def batches(self, count):
    arrays = train_batches(
      self.sources,
      [assemble.transform(self.config)] * len(self.sources),
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
    for i, batch in enumerate(self.batches(count)):
      state, metrics = self.step(state, self.in_turn[i % len(self.in_turn)], batch)
      losses.append(float(metrics["loss"]))
      states.append(state)
    self.state = state
    return np.array(losses), state


def scaled(frozen, factor):
  """With another segmenter, of the same shapes and shardings."""
  other = jax.tree.map(lambda a: a * factor, split(frozen, ("segmenter",))[0])
  return merge(
    frozen,
    jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), other, split(frozen, ("segmenter",))[0]),
  )


@pytest.fixture(scope="session")
def bench(tiny_config):
  """(stage name, devices, groups, **config changes) -> Bench."""

  def make(name, devices=1, groups=None, **changes):
    config = tiny_config(**changes)
    stage = {s.name: s for s in plan(config)}[name]
    stage = dataclasses.replace(stage, groups=groups or stage.groups)
    dataset, mesh = assemble.dataset(config), make_mesh(devices)
    model = assemble.model(config, dataset.info.num_classes)
    variables = place(initial_variables(model, config), mesh)
    trained, frozen = split(variables, stage.groups)
    tx = make_optimizer(stage.optimizer, stage.steps, trained["params"])
    state = place(TrainState.create(trained, tx, stage.ema > 0), mesh)
    step = make_step(model, stage, assemble.loss(config, name), tx, config.seed)
    sources, in_turn = [dataset.source("train")], [frozen]
    if stage.folds:
      parts = assemble.splits(config).sources(dataset)
      sources = [parts[fold] for fold in stage.folds]
      in_turn = [scaled(frozen, 1 + 0.2 * k) for k in range(len(sources))]
    return Bench(config, stage, model, tx, state, frozen, step, mesh, sources, in_turn)

  return make
