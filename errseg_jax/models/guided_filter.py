"""Guided image filter (He et al., TPAMI 2013) with a colour guide: smoothing that keeps the guide's edges.

Its cost is proportional to the pixels, whatever the radius is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from errseg_jax.models.layers import at_least_float32

BORDERS = ("count", "reflect")


def guided_filter(
  guide: jax.Array,
  x: jax.Array,
  radius: int,
  eps: float | jax.Array,
  border: str = "count",
  subsample: int = 1,
) -> jax.Array:
  """In each window x is a linear function of the guide; a pixel takes the mean of those of the windows it lies in.

  a = (Sigma + eps I)^-1 cov(guide, x), b = mean(x) - a . mean(guide); q = mean(a) . guide + mean(b) (Eq. 19 to 21).

  Args:
    guide: [B, H, W, 3].
    x: [B, H, W, C]; what is filtered, each channel on its own.
    radius: windows are 2 radius + 1 pixels wide.
    eps: in units of the guide's variance; larger smooths across weaker edges.
    border: "count": windows end at the border; "reflect": the images go on mirrored, the border pixel repeated.
    subsample: the fast form (He and Sun 2015): a and b are found on images that many times smaller.

  Returns:
    float32 [B, H, W, C], or wider where an input is.
  """
  return filter_of(guide, radius, eps, border, subsample)(x)


def filter_of(
  guide: jax.Array, radius: int, eps: float | jax.Array, border: str = "count", subsample: int = 1
) -> Callable[[jax.Array], jax.Array]:
  """x [B, H, W, C] -> `guided_filter` of it. What depends on the guide alone is computed once for all calls.

  The result does not change with the guide's mean; without it sums of squares stay small.
  """
  guide = at_least_float32(guide)
  guide = guide - guide.mean((1, 2), keepdims=True)
  low = shrink(guide, subsample)
  radius = max(1, round(radius / subsample)) if radius else 0
  size = guide.shape[1:3]

  def mean(v: jax.Array) -> jax.Array:
    return box_mean(v, radius, border)

  mean_guide = mean(low)
  pairs = [(i, j) for i in range(3) for j in range(i + 1)]
  squares = mean(jnp.stack([low[..., i] * low[..., j] for i, j in pairs], -1))
  sigma = {
    (i, j): squares[..., k] - mean_guide[..., i] * mean_guide[..., j] + (eps if i == j else 0)
    for k, (i, j) in enumerate(pairs)
  }

  def run(x: jax.Array) -> jax.Array:
    x = shrink(at_least_float32(x), subsample)
    mean_x = mean(x)
    covariances = [
      mean(low[..., i : i + 1] * x) - mean_guide[..., i : i + 1] * mean_x for i in range(guide.shape[-1])
    ]
    a = solve3(sigma, covariances)
    b = mean_x - weighted(a, mean_guide)
    large = [enlarge(mean(v), subsample, size) for v in (*a, b)]
    return weighted(large[:3], guide) + large[3]

  return run


def weighted(channels: Sequence[jax.Array], guide: jax.Array) -> jax.Array:
  """Sum of three maps [B, H, W, C], each times a channel of the guide."""
  return sum(channel * guide[..., i : i + 1] for i, channel in enumerate(channels))  # type: ignore[return-value]


def solve3(matrix: dict[tuple[int, int], jax.Array], right: Sequence[jax.Array]) -> list[jax.Array]:
  """Solves symmetric positive definite 3x3 systems by L D L^T.

  Args:
    matrix: lower triangle, (i, j) -> [...].
    right: three of [..., C], C right sides at once.

  Returns:
    Three of [..., C].
  """
  d0 = matrix[0, 0]
  l10, l20 = matrix[1, 0] / d0, matrix[2, 0] / d0
  d1 = matrix[1, 1] - l10 * matrix[1, 0]
  rest = matrix[2, 1] - l20 * matrix[1, 0]
  l21 = rest / d1
  d2 = matrix[2, 2] - l20 * matrix[2, 0] - l21 * rest
  l10, l20, l21, d0, d1, d2 = (v[..., None] for v in (l10, l20, l21, d0, d1, d2))
  y0 = right[0]
  y1 = right[1] - l10 * y0
  y2 = right[2] - l20 * y0 - l21 * y1
  z2 = y2 / d2
  z1 = y1 / d1 - l21 * z2
  z0 = y0 / d0 - l10 * z1 - l20 * z2
  return [z0, z1, z2]


def box_mean(x: jax.Array, radius: int, border: str) -> jax.Array:
  """Mean over windows of (2 radius + 1)^2 pixels, [B, H, W, C].

  Raises:
    ValueError: an unknown border.
  """
  if border not in BORDERS:
    raise ValueError(f"border={border!r} is none of {', '.join(BORDERS)}")
  for axis in (1, 2):
    n, r = x.shape[axis], radius
    pad, shape = [(0, 0)] * x.ndim, [1] * x.ndim
    shape[axis] = n
    if border == "reflect":
      count = np.full(n, 2 * r + 1)
    else:
      r = min(r, n - 1)  # a window that is wider holds no more
      place = np.arange(n)
      count = np.minimum(place + r, n - 1) - np.maximum(place - r, 0) + 1
    pad[axis] = (r + 1, r)
    longer = jnp.pad(x, pad, mode="symmetric" if border == "reflect" else "constant")
    sums = jax.lax.platform_dependent(
      longer,
      cpu=lambda v, r=r, axis=axis: running_sums(v, 2 * r + 1, axis),
      default=lambda v, r=r, axis=axis: doubled_sums(v, 2 * r + 1, axis),
    )
    x = sums * jnp.asarray(1 / count, x.dtype).reshape(shape)
  return x


def running_sums(x: jax.Array, width: int, axis: int) -> jax.Array:
  """Sums of `width` neighbours along an axis, of all windows but the first; n values give n - width.

  A value comes in, another goes out: two additions each, whatever the width. What the sum loses in rounding is
  carried along (Kahan), as rows are thousands of pixels long. XLA's own cumulative sum takes several times as long
  on CPU.
  """
  n = x.shape[axis]
  first = jax.lax.slice_in_dim(x, 0, width, axis=axis).sum(axis)
  change = jax.lax.slice_in_dim(x, width, n, axis=axis) - jax.lax.slice_in_dim(x, 0, n - width, axis=axis)

  def step(carry, value):
    total, excess = carry
    value = value - excess
    new = total + value
    return (new, (new - total) - value), new

  _, sums = jax.lax.scan(step, (first, jnp.zeros_like(first)), jnp.moveaxis(change, axis, 0))
  return jnp.moveaxis(sums, 0, axis)


def doubled_sums(x: jax.Array, width: int, axis: int) -> jax.Array:
  """The same of sums of 1, 2, 4, ... neighbours, log2(width) additions of whole maps: few, large steps."""
  out = x.shape[axis] - width
  parts, start, size = [], 1, 1
  while size <= width:
    if width & size:
      parts.append(jax.lax.slice_in_dim(x, start, start + out, axis=axis))
      start += size
    n = x.shape[axis]
    if 2 * size <= width:
      x = jax.lax.slice_in_dim(x, 0, n - size, axis=axis) + jax.lax.slice_in_dim(x, size, n, axis=axis)
    size *= 2
  return sum(parts[1:], parts[0])


def shrink(x: jax.Array, factor: int) -> jax.Array:
  """Means of blocks of factor^2 pixels, [B, H, W, C]; the last ones go on with the border's pixels."""
  if factor == 1:
    return x
  height, width = (-(-n // factor) for n in x.shape[1:3])
  pads = [(0, m * factor - n) for m, n in zip((height, width), x.shape[1:3], strict=True)]
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)), mode="edge")
  return x.reshape(x.shape[0], height, factor, width, factor, x.shape[3]).mean((2, 4))


def enlarge(x: jax.Array, factor: int, size: Sequence[int]) -> jax.Array:
  """Linear interpolation between the centres of `shrink`'s blocks, cut to (H, W).

  In time proportional to the pixels, which a resize as a product of matrices is not.
  """
  if factor == 1:
    return x
  for axis in (1, 2):
    n, pad = x.shape[axis], [(0, 0)] * x.ndim
    pad[axis] = (1, 1)
    longer = jnp.pad(x, pad, mode="edge")
    phases = []
    for k in range(factor):
      place = (k + 0.5) / factor + 0.5  # in the longer map, from the centre of the block before
      start, share = int(place), place - int(place)
      low, high = (jax.lax.slice_in_dim(longer, s, s + n, axis=axis) for s in (start, start + 1))
      phases.append((1 - share) * low + share * high)
    x = jnp.stack(phases, axis + 1).reshape(*x.shape[:axis], n * factor, *x.shape[axis + 1 :])
    x = jax.lax.slice_in_dim(x, 0, size[axis - 1], axis=axis)
  return x
