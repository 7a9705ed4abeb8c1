"""How fast training images come: what reading and augmenting one costs, and what the threads make of it."""

from __future__ import annotations

import itertools
import pathlib
import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.table import Table

from errseg_jax.data.pipeline import train_batches
from errseg_jax.inference.speed import hardware
from errseg_jax.sharding import shard_batch
from errseg_jax.train.stages import Stage
from errseg_jax.train.trainer import Trainer

BATCHES = 20  # that are timed, after the ones that were read ahead
SAMPLES = 50  # that are read and augmented one by one
MANY = 1_000_000  # batches, of which so many are read


def stage_batches(trainer: Trainer, stage: Stage) -> Any:
  """The stage's training batches, as a run reads them."""
  return train_batches(
    [trainer.sources[name] for name in stage.folds or (stage.source,)],
    trainer.transforms[stage.source],
    batch_size=stage.batch_size,
    seed=stage.seed(trainer.config.seed),
    start=0,
    stop=MANY,
    threads=trainer.config.loader.threads,
  )


def data_cost(config: ConfigDict) -> dict[str, Any]:
  """Images per second that are read, augmented and put on the devices, without a network.

  Returns:
    {"hardware", "threads", "rows": [{"stage", "batch_size", "read_ms", "augment_ms", "images_per_s"}]}; stages of the
    same images and batch size once. "read_ms" and "augment_ms" are of one sample in one thread, medians;
    "images_per_s" is what `loader.threads` give.

  Raises:
    UserError: any mistake in the config or the data set.
  """
  trainer, rows, seen = Trainer(config, pathlib.Path()), [], set()
  for stage in trainer.stages:
    if (key := (stage.source, stage.folds, stage.batch_size)) in seen:
      continue
    seen.add(key)
    read, augment = one_by_one(trainer, stage)
    batches = stage_batches(trainer, stage)
    for batch in itertools.islice(batches, 2 * max(1, config.loader.threads)):  # what was read ahead
      jax.block_until_ready(shard_batch(batch, trainer.mesh))
    start = time.perf_counter()
    for batch in itertools.islice(batches, BATCHES):
      jax.block_until_ready(shard_batch(batch, trainer.mesh))
    rate = BATCHES * stage.batch_size / (time.perf_counter() - start)
    row = {"stage": stage.name, "batch_size": stage.batch_size, "read_ms": read, "augment_ms": augment}
    rows.append(row | {"images_per_s": rate})
  return {"hardware": hardware(), "threads": config.loader.threads, "rows": rows}


def one_by_one(trainer: Trainer, stage: Stage) -> tuple[float, float]:
  """Milliseconds of reading a sample and of augmenting it."""
  source, transform = trainer.sources[(stage.folds or (stage.source,))[0]], trainer.transforms[stage.source]
  rng, seconds = np.random.default_rng(0), []
  for index in np.linspace(0, len(source) - 1, SAMPLES).astype(int):
    start = time.perf_counter()
    sample = source[int(index)]
    between = time.perf_counter()
    transform(sample, rng)
    seconds.append((between - start, time.perf_counter() - between))
  read, augment = 1000 * np.median(seconds, 0)
  return float(read), float(augment)


def table(cost: dict[str, Any]) -> Table:
  """How fast images come as a table."""
  threads = cost["threads"]
  out = Table(title=f"training images, {threads} thread{'s' * (threads > 1)}")
  for column in ("first stage that reads them", "batch", "read, ms", "augment, ms", "images/s"):
    out.add_column(column, justify="right" if column != "first stage that reads them" else "left")
  for row in cost["rows"]:
    numbers = (f"{row[key]:,.1f}" for key in ("read_ms", "augment_ms", "images_per_s"))
    out.add_row(row["stage"], str(row["batch_size"]), *numbers)
  return out
