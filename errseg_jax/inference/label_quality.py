"""How far a network believes the labels it is given, per pixel and per image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from errseg_jax.inference.choice import fused_probabilities, rebalanced
from errseg_jax.metrics.calibration import calibrated
from errseg_jax.models.error_aware import ErrorAware, infer
from errseg_jax.structs import IGNORE, Batch, Outputs

RANKINGS = ("max_probability", "error_map")
TEMPERATURE = 0.1  # of the soft minimum (Lad & Mueller 2023)
FLOOR = (
  1e-4  # added to probabilities before their logarithm: nobody's 1e-9 is to be trusted more than their 1e-5
)


def belief(outputs: Outputs, by: str, fusion: str, choice: dict[str, jax.Array]) -> jax.Array:
  """Probability of each class at each pixel, [B, H, W, C].

  Args:
    outputs: of a forward pass, `rebalanced`.
    by: "max_probability": P_sb, the frozen network's own. "error_map": the frozen label s has 1 - P_ep, calibrated;
      the other classes share P_ep in proportion to the fused P_f. So P_ep says how sure, P_f says what instead.
    fusion: the chosen one.
    choice: its numbers, `Choice.arrays`.
  """
  if by == "max_probability":
    return jax.nn.softmax(outputs.semantic)
  fused = fused_probabilities(outputs, fusion, choice)
  frozen = jax.nn.one_hot(outputs.semantic.argmax(-1), fused.shape[-1], dtype=fused.dtype)
  p = jax.nn.sigmoid(calibrated(outputs.error, choice))[..., None]
  others = fused * (1 - frozen)
  # Where P_f is 1 to the last bit no other class stands out: they share evenly.
  others = jnp.maximum(others, 1e-12 * (1 - frozen))
  return frozen * (1 - p) + p * others / others.sum(-1, keepdims=True)


def soft_minimum(values: jax.Array, valid: jax.Array) -> jax.Array:
  """Mean of `values` [B, H, W] over the valid pixels, weighted by exp((1 - value) / TEMPERATURE): [B], 0..1.

  Between the mean and the minimum: a few pixels of one region lower it, single ones hardly. 1 without a valid pixel.
  Lad & Mueller, "Estimating label quality and errors in semantic segmentation data via any model", 2023.
  """
  weight = jnp.where(valid, jnp.exp((1 - values) / TEMPERATURE), 0.0)
  total = weight.sum((1, 2))
  return jnp.where(total > 0, (weight * values).sum((1, 2)) / jnp.maximum(total, 1e-12), 1.0)


def verdict(p: jax.Array, label: jax.Array) -> dict[str, jax.Array]:
  """What a belief says of the labels of a batch.

  Args:
    p: probabilities [B, H, W, C].
    label: uint8 [B, H, W], 255 = ignore.

  Returns:
    "predicted" uint8 [B, H, W]; "evidence" float32 [B, H, W], log-odds of the predicted against the given class
    (natural logarithm), 0 where they agree or there is no label; "quality" float32 [B], `soft_minimum` of the
    belief in the given labels; "labelled" and "contradicted" int32 [B], pixels.
  """
  valid, predicted = label != IGNORE, p.argmax(-1).astype(jnp.uint8)
  given = jnp.where(valid, label, 0).astype(jnp.int32)
  own = jnp.take_along_axis(p, given[..., None], -1)[..., 0]
  against = valid & (predicted != label)
  odds = jnp.log(p.max(-1) + FLOOR) - jnp.log(own + FLOOR)
  return {
    "predicted": predicted,
    "evidence": jnp.where(against, odds, 0.0).astype(jnp.float32),
    "quality": soft_minimum(own, valid),
    "labelled": valid.sum((1, 2)),
    "contradicted": against.sum((1, 2)),
  }


def make_judge(
  model: ErrorAware, *, by: str, fusion: str, wanted: Sequence[str]
) -> Callable[[Any, Batch, dict], dict[str, jax.Array]]:
  """A jitted (variables, batch, choice arrays) -> `verdict`.

  Args:
    model: the network.
    by: one of RANKINGS.
    fusion: the chosen one.
    wanted: branches to run.
  """

  @jax.jit
  def judge(variables, batch: Batch, choice):
    outputs = rebalanced(infer(model, variables, batch.image, wanted), model.detail_weights, choice)
    return verdict(belief(outputs, by, fusion, choice), batch.label)

  return judge
