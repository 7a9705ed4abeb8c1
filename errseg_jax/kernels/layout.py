"""How maps reach a Pallas kernel: by cells, columns in lanes of 128, one row of cells a program."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from errseg_jax.kernels.cells import Axis, Taps, axis, from_cells, neighbours, to_cells
from errseg_jax.structs import IGNORE, Coarse

LANES = 128
NAMES = ("semantic", "detail", "error")


@dataclasses.dataclass(frozen=True)
class Layout:
  """Cells, and how each map enters them.

  Attributes:
    batch: B.
    num_classes: C.
    rows: cells in a column.
    columns: cells in a row.
    taps: (name, neighbours down, neighbours across) of each map.
    tile: r of the tiles [r, 128] that a program holds; a row of cells is `width` of these 128.
  """

  batch: int
  num_classes: int
  rows: Axis
  columns: Axis
  taps: tuple[tuple[str, Taps, Taps], ...]
  tile: int

  @property
  def width(self) -> int:
    """Groups of 128 cells in a row, padded."""
    return -(-self.columns.cells // (LANES * self.tile)) * self.tile

  @property
  def phases(self) -> int:
    """Pixels of a cell."""
    return self.rows.scale * self.columns.scale

  @property
  def grid(self) -> tuple[int, int, int]:
    """Programs: images, rows of cells, tiles in a row."""
    return self.batch, self.rows.cells, self.width // self.tile

  def offset(self, name: str) -> int:
    """Where the weights of a map begin in `weights`."""
    counts = [down.count * across.count for _, down, across in self.taps]
    return sum(counts[: [n for n, _, _ in self.taps].index(name)])

  def depth(self, name: str) -> int:
    """Classes of a map."""
    return 1 if name == "error" else self.num_classes

  def weights(self) -> jax.Array:
    """Of each phase and neighbour, float32 [phases, neighbours of all maps, 1, 128]."""
    parts = []
    for _, down, across in self.taps:
      table = np.einsum("pi,qj->pqij", np.array(down.weight), np.array(across.weight))
      parts.append(table.reshape(self.phases, -1))
    return tile_rows(np.concatenate(parts, 1))

  def lanes(self, x: jax.Array, fill: Any = 0) -> jax.Array:
    """[..., columns] -> [..., width, 128]."""
    beyond = self.width * LANES - x.shape[-1]
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, beyond)], constant_values=fill)
    return x.reshape(*x.shape[:-1], self.width, LANES)

  def unlaned(self, x: jax.Array) -> jax.Array:
    """The inverse of `lanes`."""
    return x.reshape(*x.shape[:-2], -1)[..., : self.columns.cells]

  def across(self, x: jax.Array, down: Taps, across: Taps) -> jax.Array:
    """A map [B, h, w, C], borders replicated, once for each neighbour across: [B, T, C, rows, cells]."""
    x = x.transpose(0, 3, 1, 2)
    sides = zip((down, across), (self.rows, self.columns), x.shape[2:], strict=True)
    pads = [pad_of(taps, cells, low) for taps, cells, low in sides]
    x = jnp.pad(x, ((0, 0), (0, 0), *pads), "edge")
    ends = [u + across.step * (self.columns.cells - 1) + 1 for u in range(across.count)]
    return jnp.stack([x[..., u : end : across.step] for u, end in enumerate(ends)], 1)

  def corners(self, x: jax.Array, down: Taps, across: Taps) -> jax.Array:
    """A map [B, h, w, C] once for each neighbour of a cell, [B, T * T', C, cells, cells]."""
    x = self.across(x, down, across)
    ends = [u + down.step * (self.rows.cells - 1) + 1 for u in range(down.count)]
    x = jnp.stack([x[..., u : end : down.step, :] for u, end in enumerate(ends)], 1)
    return x.reshape(self.batch, -1, *x.shape[3:])

  def labels(self, label: jax.Array) -> jax.Array:
    """uint8 [B, H, W] -> [B, phases, rows, width, 128]."""
    return self.lanes(to_cells(label, self.rows, self.columns, IGNORE), IGNORE)

  def full(self, x: jax.Array) -> jax.Array:
    """The inverse of `labels`, of any type."""
    return from_cells(self.unlaned(x), self.rows, self.columns)


def pad_of(taps: Taps, cells: Axis, low: int) -> tuple[int, int]:
  """Pixels to add before and behind a map, so that every neighbour of every cell is there."""
  last = taps.start + taps.step * (cells.cells - 1) + taps.count
  return -taps.start, max(last - low, 0)


def tile_rows(x: Any) -> jax.Array:
  """Numbers [...] -> [..., 1, 128], each in all lanes."""
  x = jnp.asarray(x, jnp.float32)
  return jnp.broadcast_to(x[..., None, None], (*x.shape, 1, LANES))


def layout(coarse: Coarse, tile: int) -> Layout | str:
  """The layout of maps, or why they have none.

  Args:
    coarse: maps; `semantic` is the coarsest.
    tile: groups of 128 cells that a program takes; 0: a whole row.
  """
  batch, *low, num_classes = coarse.semantic.shape
  corners = dict(zip(NAMES, coarse.align_corners, strict=True))
  axes = [axis(n, full, corners["semantic"]) for n, full in zip(low, coarse.size, strict=True)]
  if axes[0] is None or axes[1] is None:
    return f"{coarse.size[0]}x{coarse.size[1]} pixels are no whole multiple of {low[0]}x{low[1]} logits"
  found = []
  for name in NAMES:
    x = getattr(coarse, name)
    if x is None:
      continue
    down, across = (
      neighbours(n, cells, corners[name]) for n, cells in zip(x.shape[1:3], axes, strict=True) if cells
    )
    if down is None or across is None:
      return (
        f"{name} logits of {x.shape[1]}x{x.shape[2]} share no cells with semantic ones of {low[0]}x{low[1]}"
      )
    found.append((name, down, across))
  whole = -(-axes[1].cells // LANES)
  return Layout(batch, num_classes, axes[0], axes[1], tuple(found), tile or whole)
