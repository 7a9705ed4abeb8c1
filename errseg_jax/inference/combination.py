"""Weights of the views of an image, lambda in R^C for each, learned from stored scores of all views (P3, 3.3.1).

The network is fixed: its scores of labelled pixels are written once, in half precision, in shards of a few images;
the weights are trained on them afterwards, one shard in memory at a time.
"""

from __future__ import annotations

import functools
import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from errseg_jax.errors import UserError
from errseg_jax.inference.evaluator import Evaluator
from errseg_jax.metrics.segmentation import mean_iou
from errseg_jax.models.error_aware import ErrorAware, infer
from errseg_jax.models.tiles import tiled
from errseg_jax.models.views import Views, look
from errseg_jax.pixel_losses import pixel_cross_entropy
from errseg_jax.structs import IGNORE, Batch

MAX_PIXELS = 400_000  # of all shards: 6 views of 21 classes take 100 MB
LARGEST = 6e4  # score that half precision holds
PASSES, STEPS, LEARNING_RATE = 20, 1000, 0.02  # at least so many of both
TRIAL_STEPS = 300  # of a fit that is only compared with others
FOLDS = 3
STRENGTHS = (0.0, 0.03, 0.3, 3.0)
"""What being away from the mean may cost, nats for a squared distance of 1; the mean itself is tried too."""


def store_candidates(
  folder: pathlib.Path,
  evaluator: Evaluator,
  model: ErrorAware,
  variables: Any,
  source: Any,
  progress: Callable[[int], None] = lambda done: None,
  max_pixels: int = MAX_PIXELS,
) -> list[pathlib.Path]:
  """Writes the scores of every view at random labelled pixels of a source; goes on where an earlier call ended.

  An image gives at most max_pixels / images of its pixels, so the shards do not grow with the source. A shard is the
  npz of one batch, written whole or not at all: "scores" float16 [K, n, C], "label" uint8 [n] (255: fewer pixels
  were labelled), and "of", what they were made of.

  Args:
    folder: of the shards; is made.
    evaluator: reads the source.
    model: the network, with its views; what it says with its subnets is stored.
    variables: trained.
    source: labelled images that the network was not trained on.
    progress: called with the number of images done.
    max_pixels: of all shards.

  Returns:
    The shards' paths.

  Raises:
    UserError: the folder holds shards of another network, source or views, or a damaged one.
  """
  if model.views is None:
    raise ValueError("a network without views has nothing to combine")
  folder.mkdir(parents=True, exist_ok=True)
  pick = make_picker(model, max(1, max_pixels // len(source)))
  base = f"{model.views} {model.tiles} {fingerprint(variables)} {max_pixels}"
  paths: list[pathlib.Path] = []
  done = 0
  for batch, names in evaluator.batches(source):
    path, of = folder / f"{len(paths):05d}.npz", f"{base} {names}"
    if not path.exists():
      scores, label = jax.device_get(pick(variables, batch, len(paths)))
      write_shard(path, scores=scores, label=label, of=np.array(of))
    elif str(read_shard(path)["of"]) != of:
      raise UserError(f"{path} is of another network, source or views: remove {folder}")
    paths.append(path)
    done += len(names)
    progress(done)
  return paths


def fingerprint(variables: Any) -> int:
  """A checksum of a network's parameters and statistics."""
  network = {k: v for k, v in variables.items() if k != "tuned"}
  leaves = (np.ascontiguousarray(jax.device_get(leaf)) for leaf in jax.tree.leaves(network))
  return functools.reduce(lambda crc, leaf: zlib.crc32(leaf.tobytes(), crc), leaves, 0)


def make_picker(model: ErrorAware, pixels: int) -> Callable[[Any, Batch, Any], tuple[jax.Array, jax.Array]]:
  """A jitted (variables, batch, seed) -> (float16 [K, B n, C], uint8 [B n]); n: `pixels`, or all of a smaller image.

  The views run one after another, and of each only the picked pixels are kept.
  """
  views, tiles = model.views, model.tiles
  once = model.clone(views=None, tiles=None)
  assert views is not None

  @jax.jit
  def pick(variables, batch: Batch, seed):
    labels = batch.label.reshape(len(batch.label), -1)
    draw = jax.random.uniform(jax.random.fold_in(jax.random.key(0), seed), labels.shape)
    draw = jnp.where(labels == IGNORE, -1.0, draw)  # these come last
    places = jax.lax.top_k(draw, min(pixels, labels.shape[1]))[1]
    label = jnp.take_along_axis(labels, places, 1)

    def scores(view):
      see = functools.partial(infer, once, variables, wanted=())
      seen = lambda image: look(lambda x: see(x).semantic, image, view, views.padding)  # noqa: E731
      z = seen(batch.image) if tiles is None else tiled(seen, batch.image, tiles)
      z = z.reshape(*labels.shape, -1)
      z = jnp.take_along_axis(z, places[..., None], 1)
      z = jnp.clip(z, -LARGEST, LARGEST)
      return z.reshape(-1, z.shape[-1]).astype(jnp.float16)

    return jnp.stack([scores(view) for view in views.each]), label.reshape(-1)

  return pick


def write_shard(path: pathlib.Path, **arrays: np.ndarray) -> None:
  """An npz, whole or not at all."""
  part = path.with_suffix(".tmp")
  with part.open("wb") as file:
    np.savez(file, allow_pickle=False, **arrays)
  os.replace(part, path)


def read_shard(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The arrays of a shard.

  Raises:
    UserError: it is missing or damaged.
  """
  try:
    with np.load(path, allow_pickle=False) as file:
      return {key: file[key] for key in ("scores", "label", "of")}
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
    raise UserError(f"{path} is missing or damaged: remove it and run the command again") from None


def combination_loss(weights: jax.Array, scores: jax.Array, label: jax.Array) -> jax.Array:
  """Sum over pixels of -log softmax(sum_i lambda_i z_i)[y]; 0 where y is 255.

  Args:
    weights: lambda, float32 [K, C].
    scores: z, [K, n, C].
    label: y, uint8 [n].
  """
  z = jnp.einsum("knc,kc->nc", scores.astype(jnp.float32), weights)
  return pixel_cross_entropy(z, label).sum()


def choose_combination(
  shards: Sequence[pathlib.Path], num_classes: int, views: Views
) -> tuple[np.ndarray, dict[str, float]]:
  """Weights that are as far from the mean as images that they were not fitted on gain by it.

  K C weights learn a few images by heart. So they are pulled towards 1/K (`strength` of `fit_combination`), as much as
  gives the best mIoU on the shards that a fit did not see, each third in turn; where the mean is best, it is the mean.
  A single shard, of which nothing can be left out, is pulled the most.

  Args:
    shards: of `store_candidates`.
    num_classes: C.
    views: that the shards were stored with.

  Returns:
    (lambda, float32 [K, C]; mIoU on shards left out, percent, by strength in words, "mean" among them).

  Raises:
    UserError: as `fit_combination`.
  """
  mean = np.full((len(views.each), num_classes), 1 / len(views.each), np.float32)
  parts = [shards[k::FOLDS] for k in range(min(FOLDS, len(shards)))]
  if len(parts) < 2:
    return fit_combination(shards, num_classes, views, STRENGTHS[-1])[0], {}
  scores = {"mean": mean_iou(np.sum([confusion_of(mean, path) for path in shards], 0))}
  for strength in STRENGTHS:
    found = np.zeros((num_classes, num_classes), np.int64)
    for part in parts:
      rest = [path for path in shards if path not in part]
      weights = fit_combination(rest, num_classes, views, strength, TRIAL_STEPS)[0]
      found += np.sum([confusion_of(weights, path) for path in part], 0)
    scores[f"strength {strength:g}"] = mean_iou(found)
  best = max(scores, key=lambda name: scores[name])
  if best == "mean":
    return mean, scores
  return fit_combination(shards, num_classes, views, float(best.split()[1]))[0], scores


def confusion_of(weights: np.ndarray, path: pathlib.Path) -> np.ndarray:
  """Confusion matrix [C, C] of a shard's combined scores, rows the labels."""
  shard, count = read_shard(path), weights.shape[1]
  own = shard["label"] != IGNORE
  told = np.einsum("knc,kc->nc", shard["scores"][:, own].astype(np.float32), weights).argmax(-1)
  cells = shard["label"][own].astype(np.int64) * count + told
  return np.bincount(cells, minlength=count * count).reshape(count, count)


def fit_combination(
  shards: Sequence[pathlib.Path],
  num_classes: int,
  views: Views,
  strength: float = 0.0,
  steps: int = STEPS,
) -> tuple[np.ndarray, list[float]]:
  """Weights that minimise the cross-entropy of the combined scores, by Adam from 1/K on; see `combination_loss`.

  The problem is convex. A step is one shard, a pass all of them in order; the rate falls to 0 along a cosine.

  Args:
    shards: of `store_candidates`.
    num_classes: C.
    views: that the shards were stored with.
    strength: of strength * sum (lambda - 1/K)^2, which comes on top of the mean cross-entropy.
    steps: at least.

  Returns:
    (lambda, float32 [K, C]; mean cross-entropy per pixel, nats, before each pass and after the last). Whether the
    weights gain anything is to be asked of other images.

  Raises:
    UserError: a shard is damaged or of other views or classes, or no pixel of any is labelled.
  """
  count = len(views.each)
  weights = jnp.full((count, num_classes), 1 / count, jnp.float32)
  passes = max(PASSES, -(-steps // max(1, len(shards))))
  tx = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, passes * max(1, len(shards))))

  @jax.jit
  def step(weights, state, scores, label):
    pixels = (label != IGNORE).sum()

    def loss(w):
      away = ((w - 1 / count) ** 2).sum()
      return combination_loss(w, scores, label) / jnp.maximum(pixels, 1) + strength * away

    gradient = jax.grad(loss)(weights)
    updates, state = tx.update(gradient, state)
    return optax.apply_updates(weights, updates), state

  loss, state = jax.jit(combination_loss), tx.init(weights)
  losses = []
  for number in range(passes + 1):
    total, pixels, at_start = 0.0, 0, weights
    for path in shards:
      scores, label = checked(path, count, num_classes)
      total += float(loss(at_start, scores, label))
      pixels += int((label != IGNORE).sum())
      if number < passes:
        weights, state = step(weights, state, scores, label)
    if not pixels:
      raise UserError("no stored pixel is labelled: weights of views cannot be learned from these images")
    losses.append(total / pixels)
  return np.asarray(weights), losses


def checked(path: pathlib.Path, count: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
  """(scores, label) of a shard.

  Raises:
    UserError: it is damaged, or of other views or classes.
  """
  arrays = read_shard(path)
  scores, label = arrays["scores"], arrays["label"]
  if scores.shape != (count, len(label), num_classes):
    raise UserError(
      f"{path} holds scores {scores.shape} for {len(label)} pixels, not of {count} views and {num_classes} classes"
    )
  return scores, label
