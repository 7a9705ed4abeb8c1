"""`errseg data extract --passes=K`: views of training images with a frozen network's features, for its branches."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from errseg_jax import assemble
from errseg_jax.data.feature_records import INDEX, SCHEMA, flattened, layout_of, pack, record_bytes
from errseg_jax.data.records import write_records, write_text
from errseg_jax.errors import UserError
from errseg_jax.models.error_aware import ErrorAware
from errseg_jax.prepare.folder import check_space, claim
from errseg_jax.progress import progress_bar
from errseg_jax.structs import Features
from errseg_jax.train.cache import check_given, network_digest, settings
from errseg_jax.train.initialise import initial_variables
from errseg_jax.train.state import Variables
from errseg_jax.train.trainer import Trainer

SHARD = 64  # records
ADVICE = "lower --passes or transform.crop_size, or set segmenter.features to 'low' or 'logits'"
Ask = Callable[[np.ndarray], Features]
"""images uint8 [B, H, W, channels] -> what the branches see of the network's features."""


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
  config, source = trainer.config, trainer.sources["branches"]
  variables = initial_variables(trainer.model, config)
  network = {kind: tree.get("segmenter", {}) for kind, tree in variables.items()}
  ask = functools.partial(jax.jit(functools.partial(features_of, trainer.model)), network)
  views = Views(source, assemble.transform(config, "branches", source), config.seed, passes)
  made = {**settings(config), "network": network_digest(variables), "seed": config.seed, "passes": passes}
  arrays, features = next(records(views, range(1), ask, 1, 1))
  claim(out, made)
  shards = write(out, views, ask, record_bytes(layout_of(arrays)), config)
  index = {
    "schema": SCHEMA,
    "settings": made,
    "layout": layout_of(arrays),
    "strides": features.strides,
    "align_corners": features.align_corners,
    "images": source.names,
    "records": len(views),
    "shards": shards,
  }
  write_text(out / INDEX, json.dumps(index, indent=1))
  return out / INDEX


def write(out: pathlib.Path, views: Views, ask: Ask, each: int, config: ConfigDict) -> list[str]:
  """Writes the shards that are not there yet; the names of all.

  Args:
    out: folder of the cache.
    views: to write.
    ask: the network.
    each: bytes of a record.
    config: says how many views the network sees at a time.

  Raises:
    UserError: a sample cannot be used, or the disk is too small.
  """
  parts = [range(k, min(k + SHARD, len(views))) for k in range(0, len(views), SHARD)]
  names = [f"branches-{k:05}-of-{len(parts):05}.array_record" for k in range(len(parts))]
  missing = [(out / name, part) for name, part in zip(names, parts, strict=True) if not (out / name).exists()]
  left = sum(len(part) for _, part in missing)
  check_space(out, left * each, ADVICE)
  with progress_bar("extract", len(views), len(views) - left) as show:
    done = itertools.count(len(views) - left + 1)

    def packed(part: range) -> Iterator[bytes]:
      for arrays, _ in records(views, part, ask, config.loader.eval_batch_size, config.loader.threads):
        yield pack(arrays)
        show(next(done))

    for path, part in missing:
      write_records(path, packed(part))
  return names


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
  views: Views, numbers: range, ask: Ask, batch_size: int, threads: int
) -> Iterator[tuple[dict[str, np.ndarray], Features]]:
  """(arrays of a record, features of its batch) of some views; batches are filled up, so one program serves all."""
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    for start in range(numbers.start, numbers.stop, batch_size):
      own = range(start, min(start + batch_size, numbers.stop))
      rows = list(pool.map(views.__getitem__, own))
      images = np.stack([row["image"] for row in rows] + [rows[-1]["image"]] * (batch_size - len(rows)))
      features = jax.device_get(ask(images))
      arrays = flattened(features)
      for k, row in enumerate(rows):
        yield {**row, **{name: x[k] for name, x in arrays.items()}}, features
