"""`errseg data extract --passes=K`: views of training images with a frozen network's features, for its branches."""

from __future__ import annotations

import concurrent.futures
import functools
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from ml_collections import ConfigDict

from errseg_jax import assemble
from errseg_jax.data.feature_records import INDEX, SCHEMA, flattened, layout_of, pack, record_bytes
from errseg_jax.errors import UserError
from errseg_jax.models.error_aware import ErrorAware
from errseg_jax.prepare.extract import claim, save
from errseg_jax.progress import progress_bar
from errseg_jax.structs import Features
from errseg_jax.train.cache import check_given, network_digest, settings
from errseg_jax.train.initialise import initial_variables
from errseg_jax.train.state import Variables
from errseg_jax.train.trainer import Trainer

SHARD = 64  # records, at least a batch


def cache(config: ConfigDict, out: pathlib.Path, passes: int) -> pathlib.Path:
  """Writes K views of every image that trains the branches; a killed call goes on at the shard it was at.

  View k of image i is a function of (seed, k, i). Each view is a pass of its own through the network.

  Args:
    config: of a run of branches on a given network.
    out: folder of the cache.
    passes: K.

  Returns:
    Its index file.

  Raises:
    UserError: the network is not given, a sample cannot be used, another cache is there, or the disk is too small.
  """
  if passes < 1:
    raise UserError(f"--passes={passes} must be at least 1")
  if config.loader.features:
    raise UserError("config.loader.features: is a cache already; leave it out to write one")
  check_given(config)
  trainer = Trainer(config, out)
  config = trainer.config
  source = trainer.sources["branches"]
  variables = initial_variables(trainer.model, config)
  views = Views(source, assemble.transform(config, "branches", source), config.seed, passes)
  network = {kind: tree.get("segmenter", {}) for kind, tree in variables.items()}
  ask = jax.jit(functools.partial(features_of, trainer.model))
  made = {**settings(config), "network": network_digest(variables), "seed": config.seed, "passes": passes}
  first = next(records(views, range(1), ask, network, 1, 1))
  layout, features = layout_of(first[0]), first[1]
  claim(out, made)
  shards = [range(k, min(k + SHARD, len(views))) for k in range(0, len(views), SHARD)]
  names = [f"branches-{k:05}-of-{len(shards):05}.array_record" for k in range(len(shards))]
  missing = [(name, part) for name, part in zip(names, shards, strict=True) if not (out / name).exists()]
  check_space(out, sum(len(part) for _, part in missing) * record_bytes(layout), len(views))
  done = len(views) - sum(len(part) for _, part in missing)
  with progress_bar("extract", len(views), done) as show:
    for name, part in missing:
      part_path = out / f".{name}.part"
      writer = ArrayRecordWriter(str(part_path), "group_size:1")
      try:
        for arrays, _ in records(
          views, part, ask, network, config.loader.eval_batch_size, config.loader.threads
        ):
          writer.write(pack(arrays))
          done += 1
          show(done)
      finally:
        writer.close()
      os.replace(part_path, out / name)
  index = {
    "schema": SCHEMA,
    "settings": made,
    "layout": layout,
    "strides": features.strides,
    "align_corners": features.align_corners,
    "images": source.names,
    "records": len(views),
    "shards": names,
  }
  save(out / INDEX, json.dumps(index, indent=1).encode())
  return out / INDEX


class Views:
  """Augmented views by number: view k of image i is the (k N + i)-th."""

  def __init__(self, source: Any, transform: Any, seed: int, passes: int):
    self.source, self.transform, self.seed, self.passes = source, transform, seed, passes

  def __len__(self) -> int:
    return self.passes * len(self.source)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    number, image = divmod(index, len(self.source))
    rng = np.random.default_rng((self.seed, number, image))
    view = self.transform(self.source[image], rng)
    return {"image": view["image"], "label": view["label"]}


def features_of(model: ErrorAware, network: Variables, image: jax.Array) -> Features:
  """What the branches of a model see of its segmenter's features."""
  features: Any = model.segmenter.apply(network, image)
  return model.shown(features)


def records(
  views: Views, numbers: range, ask: Any, network: Variables, batch_size: int, threads: int
) -> Iterator[tuple[dict[str, np.ndarray], Features]]:
  """(arrays of a record, features of its batch) of some views; batches are filled up, so one program serves all."""
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    for start in range(numbers.start, numbers.stop, batch_size):
      own = range(start, min(start + batch_size, numbers.stop))
      rows = list(pool.map(views.__getitem__, own))
      images = np.stack([row["image"] for row in rows] + [rows[-1]["image"]] * (batch_size - len(rows)))
      features = jax.device_get(ask(network, images))
      arrays = flattened(features)
      for k, row in enumerate(rows):
        yield {**row, **{name: x[k] for name, x in arrays.items()}}, features


def check_space(folder: pathlib.Path, wanted: int, count: int) -> None:
  """Prints what the cache will take.

  Raises:
    UserError: the disk has less.
  """
  free = shutil.disk_usage(folder).free
  print(f"{folder}: {count} views, {wanted / 1e9:,.2f} GB to write")
  if wanted > free:
    raise UserError(
      f"{folder}: the cache takes {wanted / 1e9:,.2f} GB, and {free / 1e9:,.2f} GB are free: lower --passes or "
      "transform.crop_size, or set segmenter.features to 'low' or 'logits'"
    )
