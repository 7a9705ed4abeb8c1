"""A sliding window: an image of any size, tile by tile, merged with weights that fall towards a tile's borders.

A band, a row of tiles, is the unit: an image that no memory holds all scores of is done band by band, with the same
code and the same sums as one that is done at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Tiles:
  """The windows that an image is seen through.

  Attributes:
    grid: pixels. Tiles start at multiples of it, so that the network's cells lie in a tile as in the whole image.
    size: side of a tile, pixels. An image that is smaller in one direction is seen whole in that direction.
    overlap: pixels that neighbours have in common, at least.
  """

  grid: int
  size: int
  overlap: int = 0

  def places(self, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Where tiles lie along one direction, and how much each counts there.

    The last tile ends where the image does, so it overlaps its neighbour by more. A weight is 1 in the middle and
    falls to 1 / (overlap + 1) over the overlap, before the weights of each pixel are made to sum to 1.

    Args:
      length: of the image, pixels.

    Returns:
      (first pixels int32 [n], weights float32 [n, min(size, length)]).
    """
    side = min(self.size, length)
    step = (self.size - self.overlap) // self.grid * self.grid
    starts = np.array([*range(0, length - side, step), length - side], np.int32)
    depth = np.arange(side)
    ramp = np.minimum((np.minimum(depth, depth[::-1]) + 1) / (self.overlap + 1), 1.0)
    total = np.zeros(length)
    for start in starts:
      total[start : start + side] += ramp
    return starts, np.stack([ramp / total[start : start + side] for start in starts]).astype(np.float32)


Function = Callable[[jax.Array], Any]
"""image uint8 [B, h, w, 3] -> a tree of maps [B, h, w, ...] and of what has no place, [B, C]."""


def tiled(function: Function, image: jax.Array, tiles: Tiles) -> Any:
  """What a function says of an image, seen through tiles.

  Maps are averaged with the tiles' weights, as scores; of what has no place, such as which classes are there, the
  largest counts: what is in a tile is in the image.

  Args:
    function: see Function.
    image: uint8 [B, H, W, 3].
    tiles: to see it through.

  Returns:
    The function's tree, of the whole image.
  """
  height, width = image.shape[1:3]
  if max(height, width) <= tiles.size:
    return function(image)
  starts, weights = tiles.places(height)
  side = weights.shape[1]

  def add(sums: Any, place: Any) -> tuple[Any, None]:
    start, own = place
    rows = jax.lax.dynamic_slice_in_dim(image, start, side, 1)
    return added(sums, band(function, rows, tiles), start, own, axis=1), None

  return jax.lax.scan(add, empty(function, image, side, tiles), (starts, weights))[0]


def band(function: Function, rows: jax.Array, tiles: Tiles) -> Any:
  """A row of tiles, merged.

  Args:
    function: see Function.
    rows: uint8 [B, h, W, 3], rows of an image that are one tile high.
    tiles: to see them through.

  Returns:
    The function's tree, with maps [B, h, W, ...].
  """
  height, width = rows.shape[1:3]
  starts, weights = tiles.places(width)
  side = weights.shape[1]

  def add(sums: Any, place: Any) -> tuple[Any, None]:
    start, own = place
    tile = jax.lax.dynamic_slice_in_dim(rows, start, side, 2)
    return added(sums, function(tile), start, own, axis=2), None

  return jax.lax.scan(add, empty(function, rows, height, tiles), (starts, weights))[0]


def empty(function: Function, image: jax.Array, side: int, tiles: Tiles) -> Any:
  """Sums of no tile: 0, and nothing for a maximum.

  Args:
    function: see Function.
    image: [B, H, W, 3]; the sums are of its size.
    side: height of a tile.
    tiles: their width is the tiles' size, or the image's.
  """
  batch, height, width = image.shape[:3]
  shape = (batch, side, min(tiles.size, width), image.shape[-1])
  like = jax.eval_shape(function, jax.ShapeDtypeStruct(shape, image.dtype))

  def start(z: jax.ShapeDtypeStruct) -> jax.Array:
    if len(z.shape) < 3:
      return jnp.full(z.shape, -jnp.inf, z.dtype)
    return jnp.zeros((batch, height, width, *z.shape[3:]), z.dtype)

  return jax.tree.map(start, like)


def added(sums: Any, outputs: Any, start: Any, weights: Any, axis: int) -> Any:
  """Sums with a tile or a band on top.

  Args:
    sums: of `empty`.
    outputs: of the tile or band.
    start: its first pixel along `axis`.
    weights: [n], of its pixels along `axis`.
    axis: 1 for rows, 2 for columns.
  """

  def add(s: jax.Array, z: jax.Array) -> jax.Array:
    if z.ndim < 3:
      return jnp.maximum(s, z)
    shape: Sequence[int] = [-1 if i == axis else 1 for i in range(z.ndim)]
    before = jax.lax.dynamic_slice_in_dim(s, start, z.shape[axis], axis)
    after = before + jnp.asarray(weights, z.dtype).reshape(shape) * z
    return jax.lax.dynamic_update_slice_in_dim(s, after, start, axis)

  return jax.tree.map(add, sums, outputs)
