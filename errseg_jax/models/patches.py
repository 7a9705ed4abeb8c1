"""Tiles of a map that are worked on alone, with the margin that their convolutions see."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Patches:
  """K tiles of one map [1, h, w, ...].

  Attributes:
    index: int32 [K], which tiles: row by row over the grid.
    weight: float32 [K], how many tiles of the map each stands for in statistics over the map.
    side: of a tile, cells.
    size: (h, w) of the map; the last tiles of a row or column may reach beyond it.
  """

  index: jax.Array
  weight: jax.Array
  side: int = struct.field(pytree_node=False)
  size: Sequence[int] = struct.field(pytree_node=False)

  @property
  def grid(self) -> tuple[int, int]:
    """(rows, columns) of all tiles of the map."""
    return grid(self.size, self.side)

  def corners(self) -> tuple[jax.Array, jax.Array]:
    """First row and column of each tile, int32 [K]."""
    columns = self.grid[1]
    return self.index // columns * self.side, self.index % columns * self.side

  def cut(self, x: jax.Array, margin: int) -> jax.Array:
    """[1, h, w, C] -> [K, side + 2 margin, side + 2 margin, C], zeros beyond the map."""
    beyond = (n * self.side - m for n, m in zip(self.grid, self.size, strict=True))
    x = jnp.pad(x[0], (*((margin, more + margin) for more in beyond), (0, 0)))
    shape = (self.side + 2 * margin,) * 2 + x.shape[2:]
    return jax.vmap(lambda i, j: jax.lax.dynamic_slice(x, (i, j, 0), shape))(*self.corners())

  def inside(self, margin: int) -> jax.Array:
    """Cells that lie on the map, bool [K, side + 2 margin, side + 2 margin, 1]."""
    steps = jnp.arange(-margin, self.side + margin)
    rows, columns = (
      (first[:, None] + steps[None] >= 0) & (first[:, None] + steps[None] < n)
      for first, n in zip(self.corners(), self.size, strict=True)
    )
    return rows[:, :, None, None] & columns[:, None, :, None]

  def weights(self, margin: int) -> jax.Array:
    """What each cell counts in statistics over the map, float32 as `inside`: a margin is another tile's."""
    own = jnp.pad(
      jnp.ones((1, self.side, self.side, 1)), ((0, 0), (margin, margin), (margin, margin), (0, 0))
    )
    return own * self.inside(margin) * self.weight[:, None, None, None]


def grid(size: Sequence[int], side: int) -> tuple[int, int]:
  """(rows, columns) of the tiles that cover a map."""
  return -(-size[0] // side), -(-size[1] // side)


def by_tile(x: jax.Array, side: int) -> jax.Array:
  """Mean over the cells of each tile, [h, w] -> [rows * columns]."""
  rows, columns = grid(x.shape, side)
  pads = ((0, rows * side - x.shape[0]), (0, columns * side - x.shape[1]))

  def sums(x: jax.Array) -> jax.Array:
    return jnp.pad(x, pads).reshape(rows, side, columns, side).sum((1, 3)).ravel()

  return sums(x) / sums(jnp.ones_like(x))
