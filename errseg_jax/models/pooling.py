"""3x3 max pooling with a gradient that is fast on every platform."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

WINDOW = 3
Pads = tuple[tuple[int, int], tuple[int, int]]


def max_pool(x: jax.Array, stride: int, symmetric: bool = False) -> jax.Array:
  """3x3 max pooling of [B, H, W, C] to size ceil(n / stride).

  Padded as "SAME" (the far side first), or by one pixel on every side, as ResNets are. Pixels that are equally the
  largest of a window share its gradient on CPU; elsewhere the first takes it.
  """
  out = [-(-n // stride) for n in x.shape[1:3]]
  total = [max(0, (m - 1) * stride + WINDOW - n) for m, n in zip(out, x.shape[1:3], strict=True)]
  rows, columns = ((1, 1) if symmetric else (p // 2, p - p // 2) for p in total)
  pads = (rows, columns)

  def native(x):
    return nn.max_pool(x, (WINDOW, WINDOW), (stride, stride), pads)

  return jax.lax.platform_dependent(x, cpu=lambda x: shifted_maxima(x, stride, pads), default=native)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def shifted_maxima(x: jax.Array, stride: int, pads: Pads) -> jax.Array:
  """The maximum of nine shifted maps, stride 1 or 2.

  XLA on CPU takes ten times as long or more for the gradient of a windowed maximum, and for that of a chain of maxima.
  """
  padded = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)
  out = [(n - WINDOW) // stride + 1 for n in padded.shape[1:3]]
  return functools.reduce(jnp.maximum, taps(padded, stride, out))


def taps(padded: jax.Array, stride: int, out: Sequence[int]) -> list[jax.Array]:
  """The nine pixels of every window, each [B, h, w, C]."""
  rows, columns = ([slice(i, i + (m - 1) * stride + 1, stride) for i in range(WINDOW)] for m in out)
  return [padded[:, row, column] for row in rows for column in columns]


def forward(x: jax.Array, stride: int, pads: Pads) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  """(output, what the gradient wants: input and output)."""
  y = shifted_maxima(x, stride, pads)
  return y, (x, y)


def backward(stride: int, pads: Pads, kept: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array]:
  """The gradient to x: pixels of one phase of the stride lie in the same places of their windows.

  So each phase is a few comparisons of whole maps with the windows' maxima around, without a gather or a dilated map.
  """
  x, y = kept
  out, further = y.shape[1:3], (WINDOW - 1) // stride  # windows that begin before a pixel's own and reach it
  size = [stride * (m + further) for m in out]
  near = [pad[0] for pad in pads]
  far = [s - p - n for s, p, n in zip(size, near, x.shape[1:3], strict=True)]
  padded = jnp.pad(x, ((0, 0), *zip(near, far, strict=True), (0, 0)), constant_values=-jnp.inf)
  share = dy / sum((tap == y).astype(dy.dtype) for tap in taps(padded, stride, out))
  margin = ((0, 0), (further, further), (further, further), (0, 0))
  maxima, shares = jnp.pad(y, margin, constant_values=jnp.nan), jnp.pad(share, margin)

  def phase(row: int, column: int) -> jax.Array:
    pixels, total = padded[:, row::stride, column::stride], jnp.zeros((), dy.dtype)
    for i in range(row, WINDOW, stride):
      for j in range(column, WINDOW, stride):
        top, left = further - i // stride, further - j // stride
        window = (slice(None), slice(top, top + pixels.shape[1]), slice(left, left + pixels.shape[2]))
        total += jnp.where(pixels == maxima[window], shares[window], 0)
    return total

  phases = [jnp.stack([phase(row, column) for column in range(stride)], 3) for row in range(stride)]
  dx = jnp.stack(phases, 2).reshape(x.shape[0], *size, x.shape[3])
  return (dx[:, near[0] : size[0] - far[0], near[1] : size[1] - far[1]],)


shifted_maxima.defvjp(forward, backward)
