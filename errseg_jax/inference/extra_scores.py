"""Error scores that cost further passes of the frozen network: dropout at work, and augmented images.

Both are 1 - mean over the passes of P[frozen label], as logits; no branch runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from errseg_jax.errors import UserError
from errseg_jax.losses import error_target
from errseg_jax.metrics.errors import error_histogram
from errseg_jax.models.error_aware import ErrorAware, infer
from errseg_jax.models.error_branch import disbelief_logit
from errseg_jax.models.views import Padding, look
from errseg_jax.structs import IGNORE, Batch

DROPOUT_PASSES = 8
SCALES = (0.75, 1.25)  # of tta, beside the mirrored image


def _drop(next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
  """Drops where `nn.Dropout` is called at rest; what else knows of training, as batch statistics, stays at rest."""
  module = context.module
  if not isinstance(module, nn.Dropout) or context.method_name != "__call__" or not module.rate:
    return next_fun(*args, **kwargs)
  x = args[0]
  shape = tuple(1 if axis in module.broadcast_dims else n for axis, n in enumerate(x.shape))
  keep = 1.0 - module.rate
  kept = jax.random.bernoulli(module.make_rng(module.rng_collection), keep, shape)
  return jnp.where(jnp.broadcast_to(kept, x.shape), x / keep, jnp.zeros_like(x))


def check_dropout(model: ErrorAware, variables: Any) -> None:
  """Nothing is computed.

  Raises:
    UserError: the frozen network has no dropout layer, or all have rate 0: every pass would be the same.
  """
  rates = []

  def note(next_fun, args, kwargs, context):
    if isinstance(context.module, nn.Dropout):
      rates.append(context.module.rate)
    return next_fun(*args, **kwargs)

  with nn.intercept_methods(note):
    image = jax.ShapeDtypeStruct((1, 65, 65, model.image_channels), jnp.uint8)
    jax.eval_shape(lambda v, x: model.apply(v, x, wanted=()), variables, image)
  if not any(rates):
    raise UserError(
      "--scores=mc_dropout: the semantic network has no dropout layer of a rate above 0 (as head.dropout); "
      "leave mc_dropout out"
    )


def mc_dropout(model: ErrorAware, variables: Any, image: jax.Array, labels: jax.Array) -> jax.Array:
  """Score logit [B, H, W] by DROPOUT_PASSES passes with dropout (Gal and Ghahramani, ICML 2016).

  The masks are a function of the pass and the place in the batch: a run gives the same again.
  """

  def one(key):
    with nn.intercept_methods(_drop):
      outputs: Any = model.apply(variables, image, wanted=(), rngs={"dropout": key})
    return disbelief_logit(outputs.semantic, labels)

  def add(sums, key):
    return add_logit(sums, one(key)), None

  zero = jnp.zeros(labels.shape, jnp.float32)
  sums, _ = jax.lax.scan(add, (zero, zero), jax.random.split(jax.random.key(0), DROPOUT_PASSES))
  return mean_logit(sums)


def tta(
  model: ErrorAware, variables: Any, image: jax.Array, labels: jax.Array, multiple: int, remainder: int
) -> jax.Array:
  """Score logit [B, H, W] by test-time augmentation: the mirrored image, and the image at each of SCALES.

  Args:
    model: the network.
    variables: its own.
    image: uint8 [B, H, W, 3].
    labels: the frozen labels [B, H, W].
    multiple: scaled images are padded to multiples of it plus `remainder`, as the network wants its images.
    remainder: see multiple.
  """
  once = model.clone(views=None)  # the network's own views are another setting
  padding = Padding(multiple, remainder, model.segmenter.mean)
  zero = jnp.zeros(labels.shape, jnp.float32)
  sums = (zero, zero)
  for view in ((1.0, True), *((scale, False) for scale in SCALES)):
    logits = look(lambda seen: infer(once, variables, seen, ()).semantic, image, view, padding)
    sums = add_logit(sums, disbelief_logit(logits, labels))
  return mean_logit(sums)


Sums = tuple[jax.Array, jax.Array]


def add_logit(sums: Sums, z: jax.Array) -> Sums:
  """Adds p and 1 - p of p = sigmoid(z), each by itself: near 1 the difference would be lost."""
  z = z.astype(jnp.float32)
  return sums[0] + jax.nn.sigmoid(z), sums[1] + jax.nn.sigmoid(-z)


def mean_logit(sums: Sums) -> jax.Array:
  """Logit of the mean of what was added."""
  return jnp.log(sums[0]) - jnp.log(sums[1])


SCORES = ("mc_dropout", "tta")


def make_extra_counter(
  model: ErrorAware, scores: Sequence[str], multiple: int, remainder: int
) -> Callable[[Any, Batch, dict], dict[str, jax.Array]]:
  """A jitted (variables, batch, choice arrays) -> "histogram/SCORE" [B, 2, bins] for each of `scores`.

  Args:
    model: the network.
    scores: of SCORES.
    multiple: of `tta`.
    remainder: of `tta`.
  """

  @jax.jit
  def count(variables, batch: Batch, choice):
    semantic = infer(model, variables, batch.image, ()).semantic
    labels = semantic.argmax(-1)
    wrong, valid = error_target(semantic, batch.label), batch.label != IGNORE
    out = {}
    if "mc_dropout" in scores:
      out["mc_dropout"] = mc_dropout(model, variables, batch.image, labels)
    if "tta" in scores:
      out["tta"] = tta(model, variables, batch.image, labels, multiple, remainder)
    return {f"histogram/{k}": error_histogram(z, wrong, valid) for k, z in out.items()}

  return count
