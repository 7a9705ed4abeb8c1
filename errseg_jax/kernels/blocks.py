"""Bilinear interpolation by blocks: pixels of a block come from few neighbours, so a small dense product does it.

`jax.image.resize` multiplies by a matrix [full, low] of which all but two entries in a row are 0. Cut into blocks of
pixels, each with the low-resolution pixels it needs, the same products cost a fraction, any sizes fit, and the
gradient is products again, not a scatter.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


def taps(low: int, full: int, align_corners: bool = False) -> tuple[np.ndarray, np.ndarray]:
  """Where `models.resize.resize` takes each pixel from along an axis: x[first] (1 - f) + x[first + 1] f.

  Args:
    low: length of what is resized.
    full: length of the result.
    align_corners: corner pixels map onto corner pixels; else half-pixel centres.

  Returns:
    first, int [full], in 0..low - 1, and f, float64 [full]; f is 0 where first is the last pixel.
  """
  pixel = np.arange(full)
  middle = 0.0 if align_corners else 0.5
  scale = (low - 1) / max(full - 1, 1) if align_corners else low / full
  place = np.clip((pixel + middle) * scale - middle, 0, low - 1)
  first = np.floor(place).astype(int)
  return first, place - first


@dataclasses.dataclass(frozen=True, eq=False)
class Blocks:
  """An axis of `full` pixels, interpolated from `low` ones, in blocks of one size.

  Attributes:
    index: int [blocks, n], low-resolution pixels of each block.
    weight: float32 [blocks, size, n]; 0 for pixels beyond the end.
  """

  index: np.ndarray
  weight: np.ndarray

  @classmethod
  def of(cls, low: int, full: int, align_corners: bool, size: int) -> Blocks:
    """Blocks of `size` pixels; the last one is padded."""
    first, fraction = taps(low, full, align_corners)
    starts = first[::size]
    ends = np.array([first[i : i + size].max() for i in range(0, full, size)]) + 1
    n = int((ends - starts).max()) + 1
    weight = np.zeros((len(starts), size, n), np.float32)
    for pixel, (tap, f) in enumerate(zip(first, fraction, strict=True)):
      block, place = divmod(pixel, size)
      weight[block, place, tap - starts[block]] += 1 - f
      weight[block, place, tap + 1 - starts[block]] += f
    return cls(np.clip(starts[:, None] + np.arange(n), 0, low - 1), weight)


def cut(x: jax.Array, rows: Blocks, columns: Blocks) -> jax.Array:
  """[B, h, w, C] -> each block's part [bands, K, C, B, n, m], for `spread`."""
  x = jnp.take(jnp.take(x, rows.index, 1), columns.index, 3)
  return x.transpose(1, 3, 5, 0, 2, 4)


def spread(x: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
  """One band at full size.

  Args:
    x: [K, C, B, n, m].
    rows: [R, n], weights of the band's rows.
    columns: [K, P, m], of each block's columns.

  Returns:
    [K, C, B, R, P].
  """
  highest = jax.lax.Precision.HIGHEST
  x = jnp.einsum("kcbnm,rn->kcbrm", x, rows.astype(x.dtype), precision=highest)
  return jnp.einsum("kcbrm,kpm->kcbrp", x, columns.astype(x.dtype), precision=highest)


def cut_pixels(x: jax.Array, rows: int, columns: int, fill: int) -> jax.Array:
  """A full-size map [B, H, W] in blocks [bands, K, B, rows, columns], `fill` beyond the end."""
  batch, height, width = x.shape
  bands, blocks = -(-height // rows), -(-width // columns)
  beyond = ((0, 0), (0, bands * rows - height), (0, blocks * columns - width))
  x = jnp.pad(x, beyond, constant_values=fill).reshape(batch, bands, rows, blocks, columns)
  return x.transpose(1, 3, 0, 2, 4)


def join_pixels(x: jax.Array, size: tuple[int, int]) -> jax.Array:
  """The inverse of `cut_pixels`: [bands, K, B, R, P] -> [B, H, W]."""
  bands, blocks, batch, rows, columns = x.shape
  x = x.transpose(2, 0, 3, 1, 4).reshape(batch, bands * rows, blocks * columns)
  return x[:, : size[0], : size[1]]
