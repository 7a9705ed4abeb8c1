"""How fast training images come: what each part of the pipeline costs, and what the threads make of all of it."""

from __future__ import annotations

import itertools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.table import Table

from errseg_jax.data.images import read_image
from errseg_jax.data.pipeline import train_batches
from errseg_jax.inference.speed import hardware
from errseg_jax.sharding import shard_batch
from errseg_jax.train.stages import Stage
from errseg_jax.train.trainer import Trainer

BATCHES = 20  # that are timed, after the ones that were read ahead
SAMPLES = 50  # that are read and augmented one by one
MANY = 1_000_000  # batches, of which so many are read


def stage_batches(trainer: Trainer, stage: Stage, cached: bool = False) -> Any:
  """The stage's training batches, as a run reads them; `cached`: from its cache of features."""
  sources, transforms, prepared = trainer.reads(stage, cached)
  batches = train_batches(
    sources,
    transforms,
    batch_size=stage.batch_size,
    seed=stage.seed(trainer.config.seed),
    start=0,
    stop=MANY,
    threads=trainer.config.loader.threads,
  )
  return prepared(batches)


def data_cost(config: ConfigDict) -> dict[str, Any]:
  """What the parts of the pipeline cost, and images per second that come on the devices, without a network.

  Returns:
    {"hardware", "threads", "rows": [{"stage", "batch_size", "parts", "images_per_s"}]}; stages of the same images and
    batch size once. "parts" are {"image", "label", "augment", "batch", "device"}: milliseconds an image in one thread,
    medians: decoding the image file, and the label's with its checks; augmentation; stacking a batch; bringing it to
    the devices. Where samples are not read from image files, "image" is 0 and "label" all of it. "images_per_s" is what
    `loader.threads` give.

  Raises:
    UserError: any mistake in the config or the data set.
  """
  trainer, rows, seen = Trainer(config, pathlib.Path()), [], set()
  for stage in trainer.stages:
    if (key := (stage.source, stage.folds, stage.batch_size)) in seen:
      continue
    seen.add(key)
    parts = one_by_one(trainer, stage)
    batches = stage_batches(trainer, stage)
    for batch in itertools.islice(batches, 2 * max(1, config.loader.threads)):  # what was read ahead
      on_devices(batch, trainer.mesh)
    start = time.perf_counter()
    for batch in itertools.islice(batches, BATCHES):
      on_devices(batch, trainer.mesh)
    rate = BATCHES * stage.batch_size / (time.perf_counter() - start)
    rows.append({"stage": stage.name, "batch_size": stage.batch_size, "parts": parts, "images_per_s": rate})
  return {"hardware": hardware(), "threads": config.loader.threads, "rows": rows}


def one_by_one(trainer: Trainer, stage: Stage) -> dict[str, float]:
  """Milliseconds an image of each part, one after the other."""
  source, transform = trainer.sources_of(stage)[0], trainer.transforms[stage.name][0]
  rng, views = np.random.default_rng(0), []
  seconds: dict[str, list[float]] = {name: [] for name in ("image", "label", "augment", "batch", "device")}

  def timed(name: str, part: Callable[..., Any], *given: Any) -> Any:
    start = time.perf_counter()
    out = part(*given)
    seconds[name].append(time.perf_counter() - start)
    return out

  for index in np.linspace(0, len(source) - 1, max(SAMPLES, stage.batch_size)).astype(int).tolist():
    path = image_file(source, index)
    if path:
      timed("image", read_image, path)
    sample = timed("label", source.__getitem__, index)
    views.append(timed("augment", transform, sample, rng))
  rows = views[: stage.batch_size]
  for _ in range(10):
    batch = timed("batch", stacked, rows)
    timed("device", on_devices, batch, trainer.mesh)
  found = {name: 1000 * float(np.median(times or [0.0])) for name, times in seconds.items()}
  found["label"] = max(found["label"] - found["image"], 0.0)
  return found | {name: found[name] / stage.batch_size for name in ("batch", "device")}


def stacked(samples: list[dict[str, Any]]) -> dict[str, np.ndarray]:
  """Samples as a batch."""
  return {key: np.stack([sample[key] for sample in samples]) for key in ("image", "label")}


def on_devices(batch: dict[str, np.ndarray], mesh: Any) -> None:
  """Waits until a batch is there."""
  jax.block_until_ready(shard_batch(batch, mesh))


def image_file(source: Any, index: int) -> str:
  """The file that a sample's image is decoded from; "" where there is none."""
  while hasattr(source, "indices"):  # some samples of another source
    source, index = source.source, int(source.indices[index])
  return source.images[index] if hasattr(source, "images") else ""


def table(cost: dict[str, Any]) -> Table:
  """Where the time of an image goes, and how fast images come, as a table."""
  threads = cost["threads"]
  out = Table(title="training images")
  for column in ("first stage that reads them", "part", "ms an image", "images/s", "share"):
    out.add_column(column, justify="left" if column in ("first stage that reads them", "part") else "right")
  names = {
    "image": "decode image",
    "label": "decode label",
    "augment": "augment",
    "batch": "stack a batch",
    "device": "to the devices",
  }
  for row in cost["rows"]:
    total, parts = sum(row["parts"].values()), row["parts"]
    for name, what in names.items():
      rate = f"{1000 / parts[name]:,.0f}" if parts[name] else ""
      out.add_row("", what, f"{parts[name]:.2f}", rate, f"{parts[name] / total:.0%}")
    whole = f"all, {threads} thread{'s' * (threads > 1)}"
    rate = row["images_per_s"]
    out.add_row(
      f"{row['stage']}, batches of {row['batch_size']}", whole, f"{1000 / rate:.2f}", f"{rate:,.0f}", ""
    )
    out.add_section()
  return out
