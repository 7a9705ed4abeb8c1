"""What a training step of each stage costs on the device at hand."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.table import Table

from errseg_jax.bench.model import ordinary
from errseg_jax.bench.reading import stage_batches
from errseg_jax.bench.roofline import bandwidth, flop_rate, program_costs
from errseg_jax.inference.speed import hardware
from errseg_jax.models.error_aware import ErrorAware
from errseg_jax.pixel_losses import Confusion
from errseg_jax.sharding import place, shard_batch
from errseg_jax.structs import Batch
from errseg_jax.train.given import abstract_variables
from errseg_jax.train.memory import step_bytes
from errseg_jax.train.optim import make_optimizer
from errseg_jax.train.stages import BRANCHES, Stage
from errseg_jax.train.state import TrainState, Variables, split
from errseg_jax.train.step import make_step
from errseg_jax.train.trainer import Trainer

ROUNDS = 10  # steps that are timed, after one that is not
LOOPS = 3  # times that as many are timed with reading


def training_cost(config: ConfigDict) -> dict[str, Any]:
  """Milliseconds, memory, operations of a step of every stage of a config, on random weights and its own images.

  With `loader.features` the branches' stages come twice, beside each other in every round: with the network at work,
  and from the cache.

  Returns:
    {"hardware", "dtype", "bytes_per_second", "flops_per_second", "rows": [{"stage", "features", "batch_size",
    "crop_size", "ms", "images_per_s", "step_GB", "gflop", "gbyte", "share_of_flops", "share_of_bytes"}]}. "features":
    "network" or "cache". "ms": the median step, without reading images. With a cache the branches' rows also have
    "loop_ms", with reading as a run reads; those from it "faster", the median of how many times as long the other
    takes in the same round. "step_GB": of memory on each device. The shares are of what a large product of matrices
    and a large copy reach in the same run (`roofline`).

  Raises:
    UserError: any mistake in the config, the data set or the cache.
  """
  trainer = Trainer(config, pathlib.Path())
  config = trainer.config
  rng = np.random.default_rng(0)
  variables = jax.tree.map(lambda leaf: ordinary(leaf, rng), abstract_variables(trainer.model))
  variables = place(variables, trainer.mesh)
  memory, arithmetic = bandwidth(), flop_rate(config.dtype)
  rows = []
  for stage in trainer.stages:
    if stage.aside and stage.restarts:  # a fold: the semantic stage again
      continue
    for features, cost in step_costs(trainer, stage, variables).items():
      seconds = cost.pop("seconds")
      row = {"stage": stage.name, "features": features, "batch_size": stage.batch_size}
      row |= {"crop_size": list(config.transform.crop_size), "ms": 1000 * seconds}
      row |= {"images_per_s": stage.batch_size / seconds, "step_GB": cost["held"] / 1e9}
      row |= {"gflop": cost["flops"] / 1e9, "gbyte": cost["bytes"] / 1e9}
      row["share_of_flops"] = cost["flops"] / seconds / arithmetic
      row["share_of_bytes"] = cost["bytes"] / seconds / memory
      rows.append(row | {key: cost[key] for key in ("loop_ms", "faster") if key in cost})
  measured = {"bytes_per_second": memory, "flops_per_second": arithmetic}
  return {"hardware": hardware(), "dtype": config.dtype, **measured, "rows": rows}


def step_costs(trainer: Trainer, stage: Stage, variables: Variables) -> dict[str, dict[str, float]]:
  """What a step costs by where its features come from: "network"; of a stage that may read a cache, "cache" too.

  Each is {"seconds": the median of ROUNDS steps, "held": bytes on each device, "flops", "bytes"}; of two also
  "loop_ms", and of the cache "faster".
  """
  steps = {"network": Steps(trainer, stage, variables, False)}
  if trainer.cache is not None and stage.kind in BRANCHES:
    steps["cache"] = Steps(trainer, stage, variables, True)
  alone = np.array([[own.seconds() for own in steps.values()] for _ in range(ROUNDS + 1)])[1:]
  seconds = np.median(alone, 0)
  costs = {
    name: own.cost() | {"seconds": float(x)} for (name, own), x in zip(steps.items(), seconds, strict=True)
  }
  if len(steps) == 2:
    loops = np.array([[own.seconds_in_a_row() for own in steps.values()] for _ in range(LOOPS)])
    for cost, x in zip(costs.values(), np.median(loops, 0), strict=True):
      cost["loop_ms"] = 1000 * float(x)
    costs["cache"]["faster"] = float(np.median(loops[:, 0] / loops[:, 1]))
  return costs


class Steps:
  """A stage's compiled step, its state, and the batches that it reads, from the cache of features or from images."""

  def __init__(self, trainer: Trainer, stage: Stage, variables: Variables, cached: bool):
    config, model = trainer.config, trainer.model_of(stage)
    trained, frozen = split(variables, stage.groups)
    tx = make_optimizer(stage.optimizer, stage.steps, trained["params"])
    loss = trainer.losses[stage.name]
    step: Any = make_step(model, stage, loss, tx, config.seed, config.train.remat)
    self.ahead = 2 * max(1, config.loader.threads)
    self.mesh, self.batches = trainer.mesh, stage_batches(trainer, stage, cached)
    self.state = place(TrainState.create(copy_of(trained), tx, stage.ema > 0), trainer.mesh)
    self.frozen = {**frozen, **more_inputs(loss, model, trainer)}
    self.batch = self.read()
    self.program = step.lower(self.state, self.frozen, self.batch).compile()

  def read(self) -> Batch:
    """The next batch, on the devices."""
    return Batch(**shard_batch(next(self.batches), self.mesh))

  def seconds(self) -> float:
    """Of a step."""
    start = time.perf_counter()
    self.state, metrics = self.program(self.state, self.frozen, self.batch)
    jax.block_until_ready((self.state, metrics))
    return time.perf_counter() - start

  def seconds_in_a_row(self) -> float:
    """Of each of ROUNDS steps and of waiting for their batches, after what was read ahead while others ran."""
    for _ in range(self.ahead):
      self.batch = self.read()
      self.seconds()
    start = time.perf_counter()
    for _ in range(ROUNDS):
      self.batch = self.read()
      self.seconds()
    return (time.perf_counter() - start) / ROUNDS

  def cost(self) -> dict[str, float]:
    """{"held": bytes on each device, "flops", "bytes"}."""
    return {"held": float(step_bytes(self.program)), **program_costs(self.program)}


def copy_of(variables: Variables) -> Variables:
  """A copy that a step may be given to keep."""
  return jax.tree.map(lambda leaf: leaf.copy(), variables)


def more_inputs(loss: Any, model: ErrorAware, trainer: Trainer) -> Mapping[str, Any]:
  """What a loss takes beside outputs and labels: of nothing confused, which costs as much as any other matrix."""
  pixel = getattr(loss, "pixel", None)
  if not isinstance(pixel, Confusion) or not pixel.wants_confusion:
    return {}
  counts = np.eye(trainer.dataset.info.num_classes, dtype=np.int64)
  return {"loss": {"confusion": place(loss.matrices(counts), trainer.mesh)}}


def table(cost: dict[str, Any]) -> Table:
  """What steps cost as a table."""
  device, dtype = cost["hardware"]["device"], cost["dtype"]
  reached = f"{cost['flops_per_second'] / 1e9:,.0f} GFLOP/s, {cost['bytes_per_second'] / 1e9:,.0f} GB/s"
  out = Table(title=f"training steps, {dtype}, {device}; at best {reached}")
  names = (
    "stage",
    "features",
    "batch",
    "crop",
    "ms",
    "images/s",
    "GB held",
    "GFLOP",
    "% of FLOP/s",
    "% of GB/s",
  )
  cached = any("loop_ms" in row for row in cost["rows"])
  for column in (*names, *(("ms with reading", "times as fast") if cached else ())):
    out.add_column(column, justify="left" if column in ("stage", "features") else "right")
  for row in cost["rows"]:
    crop = "x".join(str(side) for side in row["crop_size"])
    numbers = (
      f"{row['ms']:,.1f}",
      f"{row['images_per_s']:,.1f}",
      f"{row['step_GB']:.2f}",
      f"{row['gflop']:,.1f}",
    )
    shares = (f"{100 * row[key]:.0f}" for key in ("share_of_flops", "share_of_bytes"))
    more = (f"{row[key]:,.{k}f}" if key in row else "" for k, key in ((1, "loop_ms"), (2, "faster")))
    out.add_row(
      row["stage"],
      row["features"],
      str(row["batch_size"]),
      crop,
      *numbers,
      *shares,
      *(more if cached else ()),
    )
  return out
