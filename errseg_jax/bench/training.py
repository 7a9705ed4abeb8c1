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
from errseg_jax.train.stages import Stage
from errseg_jax.train.state import TrainState, Variables, split
from errseg_jax.train.step import make_step
from errseg_jax.train.trainer import Trainer

ROUNDS = 10  # steps that are timed, after one that is not


def training_cost(config: ConfigDict) -> dict[str, Any]:
  """Milliseconds, memory, operations of a step of every stage of a config, on random weights and its own images.

  Returns:
    {"hardware", "dtype", "bytes_per_second", "flops_per_second", "rows": [{"stage", "batch_size", "crop_size", "ms",
    "images_per_s", "step_GB", "gflop", "gbyte", "share_of_flops", "share_of_bytes"}]}. "ms": the median step, without
    reading images. "step_GB": of memory on each device. The shares are of what a large product of matrices and a
    large copy reach in the same run (`roofline`).

  Raises:
    UserError: any mistake in the config or the data set.
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
    cost = step_cost(trainer, stage, variables)
    seconds = cost.pop("seconds")
    row = {"stage": stage.name, "batch_size": stage.batch_size, "crop_size": list(config.transform.crop_size)}
    row |= {"ms": 1000 * seconds, "images_per_s": stage.batch_size / seconds, "step_GB": cost["held"] / 1e9}
    row |= {"gflop": cost["flops"] / 1e9, "gbyte": cost["bytes"] / 1e9}
    row["share_of_flops"] = cost["flops"] / seconds / arithmetic
    row["share_of_bytes"] = cost["bytes"] / seconds / memory
    rows.append(row)
  measured = {"bytes_per_second": memory, "flops_per_second": arithmetic}
  return {"hardware": hardware(), "dtype": config.dtype, **measured, "rows": rows}


def step_cost(trainer: Trainer, stage: Stage, variables: Variables) -> dict[str, float]:
  """{"seconds": the median of ROUNDS steps, "held": bytes on each device, "flops", "bytes"}."""
  config, model = trainer.config, trainer.model_of(stage)
  trained, frozen = split(variables, stage.groups)
  tx = make_optimizer(stage.optimizer, stage.steps, trained["params"])
  loss = trainer.losses[stage.name]
  state = place(TrainState.create(copy_of(trained), tx, stage.ema > 0), trainer.mesh)
  step: Any = make_step(model, stage, loss, tx, config.seed, config.train.remat)
  batch = Batch(**shard_batch(next(stage_batches(trainer, stage)), trainer.mesh))
  frozen = {**frozen, **more_inputs(loss, model, trainer)}
  compiled = step.lower(state, frozen, batch).compile()
  seconds = []
  for _ in range(ROUNDS + 1):
    start = time.perf_counter()
    state, metrics = compiled(state, frozen, batch)
    jax.block_until_ready((state, metrics))
    seconds.append(time.perf_counter() - start)
  held = float(step_bytes(compiled))
  return {"seconds": float(np.median(seconds[1:])), "held": held, **program_costs(compiled)}


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
  for column in ("stage", "batch", "crop", "ms", "images/s", "GB held", "GFLOP", "% of FLOP/s", "% of GB/s"):
    out.add_column(column, justify="left" if column == "stage" else "right")
  for row in cost["rows"]:
    crop = "x".join(str(side) for side in row["crop_size"])
    numbers = (
      f"{row['ms']:,.1f}",
      f"{row['images_per_s']:,.1f}",
      f"{row['step_GB']:.2f}",
      f"{row['gflop']:,.1f}",
    )
    shares = (f"{100 * row[key]:.0f}" for key in ("share_of_flops", "share_of_bytes"))
    out.add_row(row["stage"], str(row["batch_size"]), crop, *numbers, *shares)
  return out
