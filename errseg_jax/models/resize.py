"""Bilinear resizing of maps, [B, h, w, C] -> [B, H, W, C], without antialiasing."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

MOST_PHASES = 16  # of an axis: more is rare, and would be a long program


def resize(x: jax.Array, size: Sequence[int], align_corners: bool = False) -> jax.Array:
  """Bilinear resize of [B, h, w, C] to (H, W) without antialiasing.

  Where a map grows by whole factors, `by_phases` takes a third or less of the time that XLA on CPU takes for the two
  products with matrices of `jax.image.resize`, forward and backward.

  Args:
    x: feature map or logits [B, h, w, C].
    size: (H, W).
    align_corners: False: half-pixel centres; True: corner pixels map onto corner pixels, where published
      weights were trained so.

  Returns:
    [B, H, W, C] in x's type.
  """
  size = (int(size[0]), int(size[1]))
  if x.shape[1:3] == size:
    return x
  shape = (x.shape[0], *size, x.shape[3])
  if align_corners:
    return with_corners(x, shape)

  def native(x):
    return jax.image.resize(x, shape, "bilinear", antialias=False)

  factors = (size[0] // x.shape[1], size[1] // x.shape[2])
  if size[0] % x.shape[1] or size[1] % x.shape[2] or max(factors) > MOST_PHASES:
    return native(x)
  return jax.lax.platform_dependent(x, cpu=lambda x: by_phases(x, factors), default=native)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def by_phases(x: jax.Array, factors: tuple[int, int]) -> jax.Array:
  """[B, h, w, C] -> [B, s h, t w, C]: each of the s t pixels in place of one is a mixture of it and its neighbours."""
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  for axis, factor in enumerate(factors, start=1):
    if factor == 1:
      continue
    n, flat = wide.shape[axis], (1,) * (axis + 1)
    ends = jnp.pad(wide, [(int(k == axis),) * 2 for k in range(4)], "edge")
    around = [jax.lax.slice_in_dim(ends, k, k + n, axis=axis) for k in range(3)]
    mixed = functools.reduce(
      operator.add,
      [
        jnp.expand_dims(part, axis + 1) * share.reshape(*flat, factor, *(1,) * (3 - axis)).astype(wide.dtype)
        for part, share in zip(around, shares(factor), strict=True)
      ],
    )
    wide = mixed.reshape(*wide.shape[:axis], n * factor, *wide.shape[axis + 1 :])
  return wide.astype(x.dtype)


def shares(factor: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """How much each of the pixels in place of one takes from that before, itself and that after, [factor] each."""
  place = (np.arange(factor) + 0.5) / factor - 0.5  # from the pixel's own centre, in pixels
  return np.maximum(-place, 0), 1 - np.abs(place), np.maximum(place, 0)


def forward(x: jax.Array, factors: tuple[int, int]) -> tuple[jax.Array, None]:
  """(output, nothing: the gradient wants no value of it)."""
  return by_phases(x, factors), None


def backward(factors: tuple[int, int], _: None, dy: jax.Array) -> tuple[jax.Array]:
  """The gradient to x, summed over the phases: several times faster than what XLA makes of the forward pass."""
  wide = dy.astype(jnp.promote_types(dy.dtype, jnp.float32))
  for axis, factor in reversed([*enumerate(factors, start=1)]):
    if factor == 1:
      continue
    n = wide.shape[axis] // factor
    phased = wide.reshape(*wide.shape[:axis], n, factor, *wide.shape[axis + 1 :])
    phases = [jax.lax.index_in_dim(phased, k, axis + 1, keepdims=False) for k in range(factor)]
    before, own, after = (
      functools.reduce(operator.add, [p * float(f) for p, f in zip(phases, share, strict=True) if f])
      for share in shares(factor)
    )
    first, last = (jax.lax.slice_in_dim(z, k, k + 1, axis=axis) for z, k in ((before, 0), (after, n - 1)))
    before = jnp.concatenate([jax.lax.slice_in_dim(before, 1, n, axis=axis), last], axis)
    after = jnp.concatenate([first, jax.lax.slice_in_dim(after, 0, n - 1, axis=axis)], axis)
    wide = before + own + after
  return (wide.astype(dy.dtype),)


by_phases.defvjp(forward, backward)


def with_corners(x: jax.Array, shape: Sequence[int]) -> jax.Array:
  """x [B, h, w, C] in `shape` [B, H, W, C], corner pixels onto corner pixels."""
  # One pixel has no two corners: from it all is copied, to it the first pixel goes.
  corners = [
    ((m - 1) / (n - 1), 0.5 - 0.5 * (m - 1) / (n - 1)) if min(n, m) > 1 else (m if n == 1 else 1.0, 0.0)
    for n, m in zip(x.shape[1:3], shape[1:3], strict=True)
  ]
  scale, translation = jnp.array(corners, jnp.promote_types(x.dtype, jnp.float32)).T
  return jax.image.scale_and_translate(x, shape, (1, 2), scale, translation, "bilinear", antialias=False)


def resize_twice(x: jax.Array, middle: Sequence[int], size: Sequence[int], align_corners: bool) -> jax.Array:
  """resize(resize(x, middle, align_corners), size), [B, h, w, C] -> [B, H, W, C], without the map in the middle."""

  def matrix(low: int, between: int, full: int) -> jax.Array:
    first = resize(jnp.eye(low, dtype=x.dtype)[None, ..., None], (between, low), align_corners)
    return resize(first, (full, low))[0, ..., 0]

  rows, columns = (matrix(*n) for n in zip(x.shape[1:3], middle, size, strict=True))
  return jnp.einsum("Yy,byxc,Xx->bYXc", rows, x, columns, precision=jax.lax.Precision.HIGHEST)
