"""Convolutions in the place of `lax.conv_general_dilated`, with the arguments that flax gives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def tile_conv(
  x: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int],
  padding: Sequence[tuple[int, int]],
  *,
  rhs_dilation: Sequence[int],
  **options: Any,
) -> jax.Array:
  """Convolution of many small maps without padding, stride 1, [B, H, W, C] with kernel [k, k, C, D].

  XLA's convolution on CPU takes twice as long for tiles as for the map they are cut from. As one map, stacked on top of
  each other, they take a fifth longer than that map; small tiles have too many seams for it, and take half as long
  again as a product of patches with the kernel. The arguments are those of `lax.conv_general_dilated`, as flax gives
  them; `strides` are 1 and `padding` is 0.
  """

  def native(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, rhs_dilation=rhs_dilation, **options)

  def patches(x, kernel):
    (k, _, channels, features), (down, across) = kernel.shape, rhs_dilation
    height, width = x.shape[1] - down * (k - 1), x.shape[2] - across * (k - 1)
    rows, columns = (range(0, rate * k, rate) for rate in rhs_dilation)
    taps = [x[:, i : i + height, j : j + width] for i in rows for j in columns]
    flat = jnp.concatenate(taps, -1).reshape(-1, k * k * channels) @ kernel.reshape(-1, features)
    return flat.reshape(x.shape[0], height, width, features)

  def stacked(x, kernel):
    number, height, width, channels = x.shape
    seam = rhs_dilation[0] * (kernel.shape[0] - 1)
    one = x.reshape(1, number * height, width, channels)
    one = jax.lax.conv_general_dilated(
      one, kernel, strides, ((0, seam), (0, 0)), rhs_dilation=rhs_dilation, **options
    )
    return one.reshape(number, height, one.shape[2], -1)[:, : height - seam]

  small = x.shape[1] < 4 * rhs_dilation[0] * kernel.shape[0]
  return jax.lax.platform_dependent(x, kernel, cpu=patches if small else stacked, default=native)


def near_conv(
  x: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int],
  padding: Sequence[tuple[int, int]],
  *,
  rhs_dilation: Sequence[int],
  **options: Any,
) -> jax.Array:
  """Convolution without the taps that see nothing but padding, [B, H, W, C] with kernel [k, k, C, D].

  Of a dilation as large as the map nothing is left but the middle of the kernel: atrous pooling of small images.
  """
  spans, pads = [], []
  for n, k, stride, rate, (before, after) in zip(
    x.shape[1:3], kernel.shape[:2], strides, rhs_dilation, padding, strict=True
  ):
    last = (n + before + after - rate * (k - 1) - 1) // stride * stride  # where the last window begins
    seen = [t for t in range(k) if -last <= t * rate - before < n]
    spans.append(slice(seen[0], seen[-1] + 1))
    pads.append((before - rate * seen[0], after - rate * (k - 1 - seen[-1])))
  return jax.lax.conv_general_dilated(
    x, kernel[tuple(spans)], strides, pads, rhs_dilation=rhs_dilation, **options
  )
