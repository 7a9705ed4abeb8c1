"""What a kernel computes of a tile of pixels, elementwise, one class at a time; the same code on TPU and GPU.

Values are [r, 128] tiles, or [1, 128] where they are the same in a tile. Nothing here indexes, reduces over or
reshapes a tile: what Mosaic and Triton both take. `models.error_branch` and `pixel_losses` hold the equations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

UNROLLED = 32  # classes; beyond, a loop
TINY = 1e-37
CLIP = 20.0  # of error logits

Scores = Callable[[Any], jax.Array]
"""Class -> its scores, a tile."""


def fold(num_classes: int, function: Callable[[Any, Any], Any], start: Any) -> Any:
  """function(c, carry) over the classes in order."""
  if num_classes > UNROLLED:
    return jax.lax.fori_loop(0, num_classes, function, start)
  for c in range(num_classes):
    start = function(c, start)
  return start


def kept(scores: Scores, num_classes: int) -> Scores:
  """Scores computed once where the loops over classes are unrolled, each time anew elsewhere."""
  if num_classes > UNROLLED:
    return scores
  values = [scores(c) for c in range(num_classes)]
  return values.__getitem__


def largest(scores: Scores, num_classes: int) -> tuple[jax.Array, jax.Array]:
  """The largest score and its class, int32; the first of equal ones."""
  first = scores(0)

  def step(c, carry):
    z, (top, label) = scores(c), carry
    better = z > top
    return jnp.where(better, z, top), jnp.where(better, c, label)

  return fold(num_classes, step, (first, jnp.zeros(first.shape, jnp.int32)))


def total(scores: Scores, num_classes: int, top: jax.Array, but: jax.Array | None = None) -> jax.Array:
  """Sum of exp(score - top) over the classes, `but` for one."""

  def step(c, carry):
    e = jnp.exp(scores(c) - top)
    return carry + (e if but is None else jnp.where(but == c, 0.0, e))

  return fold(num_classes, step, jnp.zeros(top.shape, jnp.float32))


def pick(scores: Scores, num_classes: int, label: jax.Array) -> jax.Array:
  """The score of a class that differs from pixel to pixel, 0 where it is none."""
  zero = jnp.zeros(label.shape, jnp.float32)
  return fold(num_classes, lambda c, carry: carry + jnp.where(label == c, scores(c), 0.0), zero)


def disbelief(scores: Scores, num_classes: int, label: jax.Array, top: jax.Array) -> jax.Array:
  """log of the others' probability over that of `label`, clipped; `top` is the largest score."""
  others = total(scores, num_classes, top, label)
  own = pick(scores, num_classes, label)
  return jnp.clip(jnp.log(jnp.maximum(others, TINY)) + top - own, -CLIP, CLIP)


def minus_log_sigmoid(x: jax.Array) -> jax.Array:
  """-log sigmoid(x)."""
  return jnp.maximum(-x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def confusion_rates(matrix: Scores, label: jax.Array, num_classes: int) -> list[jax.Array]:
  """c[label, j] of each class j, by comparing with every label: for few classes.

  Args:
    matrix: c[i, j] by i * C + j.
    label: int32.
    num_classes: C.
  """
  zero = jnp.zeros(label.shape, jnp.float32)
  rates = [zero] * num_classes
  for i in range(num_classes):
    own = label == i
    rates = [r + jnp.where(own, matrix(i * num_classes + j), 0.0) for j, r in enumerate(rates)]
  return rates


def confusion_term(
  scores: Scores, rates: Sequence[jax.Array], top: jax.Array, best: jax.Array, others: jax.Array
) -> jax.Array:
  """-sum_j c_j log(1 - q_j); only the largest class's 1 - q is summed up from the `others`."""
  whole = others + 1.0
  out = jnp.zeros(top.shape, jnp.float32)
  for j, rate in enumerate(rates):
    q = jnp.where(best == j, 0.0, jnp.exp(scores(j) - top) / whole)
    log_rest = jnp.where(best == j, jnp.log(jnp.maximum(others, TINY)) - jnp.log(whole), jnp.log1p(-q))
    out = out - rate * log_rest
  return out


def confusion_slopes(
  scores: Scores, rates: Sequence[jax.Array], top: jax.Array, best: jax.Array, others: jax.Array
) -> list[jax.Array]:
  """The gradient of `confusion_term` by each score."""
  whole = others + 1.0
  q = [jnp.exp(scores(j) - top) / whole for j in range(len(rates))]
  slopes = [
    jnp.where(best == j, 0.0, rate * q_j / (1.0 - jnp.where(best == j, 0.0, q_j)))
    for j, (rate, q_j) in enumerate(zip(rates, q, strict=True))
  ]
  added = sum(slopes[1:], slopes[0])
  # Of the largest class, c q (1 at itself, -share of the others elsewhere).
  own = sum(
    (jnp.where(best == j, rate * q_j, 0.0) for j, (rate, q_j) in enumerate(zip(rates, q, strict=True)))
  )
  of_others = whole / jnp.maximum(others, TINY)
  return [
    a - q_j * added + own * jnp.where(best == j, 1.0, -q_j * of_others)
    for j, (a, q_j) in enumerate(zip(slopes, q, strict=True))
  ]
