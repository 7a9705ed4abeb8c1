"""Cells between low-resolution pixels: where every pixel of a cell has the same neighbours, with weights of its place.

A cell is a square of s x s pixels, s the ratio of sizes. Bilinear interpolation takes each of them from the same
low-resolution pixels, its corners; the weights depend on the place in the cell (the phase) alone. So a kernel that
holds corners and labels by cells is elementwise: one number per cell and phase, no gather, no full-size class map.

    half-pixel, H = s h        cells lie between pixel centres; the border's have replicated corners: h + 1 in a column
    align_corners, H = s (h - 1) + 1    cells begin at pixels; of the last ones only the first row or column is real

Maps of several strides share the cells of the coarsest: a map of stride s/2 has four neighbours a side in place of two.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from errseg_jax.kernels.blocks import taps


@dataclasses.dataclass(frozen=True)
class Axis:
  """Cells along one axis.

  Attributes:
    scale: s, pixels of a cell.
    cells: how many.
    before: pixels of the first cell that lie outside the image.
    full: pixels of the image.
  """

  scale: int
  cells: int
  before: int
  full: int


@dataclasses.dataclass(frozen=True)
class Taps:
  """How a map's pixels enter the cells along one axis.

  Attributes:
    step: low-resolution pixels from one cell to the next.
    start: the first cell's first neighbour, below 0 where it is a replicated border.
    weight: [s][neighbours], of each phase.
  """

  step: int
  start: int
  weight: tuple[tuple[float, ...], ...]

  @property
  def count(self) -> int:
    """Neighbours of a cell."""
    return len(self.weight[0])


def axis(low: int, full: int, align_corners: bool) -> Axis | None:
  """The cells between the pixels of a map of length `low`; None where sizes have no whole ratio."""
  if align_corners:
    scale, rest = divmod(full - 1, max(low - 1, 1))
    return Axis(scale, low, 0, full) if low > 1 and rest == 0 and scale > 0 else None
  scale, rest = divmod(full, low)
  return Axis(scale, low + 1, (scale + 1) // 2, full) if rest == 0 else None


def neighbours(low: int, cells: Axis, align_corners: bool) -> Taps | None:
  """The neighbours of cells in a map of length `low`; None where they differ from cell to cell."""
  step, rest = divmod(cells.scale * low, cells.full) if not align_corners else (1, 0)
  if rest or axis(low, cells.full, align_corners) is None:
    return None
  first, fraction = taps(low, cells.full, align_corners)
  # Borders are replicated: what was clipped goes back to where the phase has it in every cell.
  place = place_of(low, cells, align_corners)
  base = int(np.floor(place[0]))
  width = int(np.floor(place[: cells.scale].max())) - base + 2
  weight = np.zeros((cells.scale, width))
  for phase, p in enumerate(place[: cells.scale]):
    tap = int(np.floor(p)) - base
    weight[phase, tap] += 1 - (p - np.floor(p))
    weight[phase, tap + 1] += p - np.floor(p)
  out = Taps(step, base, tuple(map(tuple, weight.tolist())))
  return out if agrees(out, cells, low, first, fraction) else None


def place_of(low: int, cells: Axis, align_corners: bool) -> np.ndarray:
  """Where each pixel of the cells lies in a map, in its pixels, borders not clipped."""
  pixel = np.arange(cells.cells * cells.scale) - cells.before
  if align_corners:
    return pixel * ((low - 1) / (cells.full - 1))
  return (pixel + 0.5) * (low / cells.full) - 0.5


def agrees(found: Taps, cells: Axis, low: int, first: np.ndarray, fraction: np.ndarray) -> bool:
  """Whether cells interpolate a ramp and a step at every pixel as `taps` does."""
  pixel = np.arange(cells.full) + cells.before
  cell, phase = pixel // cells.scale, pixel % cells.scale
  index = cell[:, None] * found.step + found.start + np.arange(found.count)
  weight = np.array(found.weight)[phase]
  for ramp in (np.arange(low, dtype=float), np.arange(low) % 2 * 1.0):
    want = ramp[first] * (1 - fraction) + ramp[np.minimum(first + 1, low - 1)] * fraction
    got = (ramp[np.clip(index, 0, low - 1)] * weight).sum(1)
    if np.abs(got - want).max() > 1e-6:
      return False
  return True


def to_cells(x: jax.Array, rows: Axis, columns: Axis, fill: int) -> jax.Array:
  """A full-size map [B, H, W] by phase and cell, [B, s * s, cells, cells]; `fill` outside the image."""
  pads = [(a.before, a.scale * a.cells - a.before - a.full) for a in (rows, columns)]
  x = jnp.pad(x, ((0, 0), *pads), constant_values=fill)
  x = x.reshape(len(x), rows.cells, rows.scale, columns.cells, columns.scale)
  return x.transpose(0, 2, 4, 1, 3).reshape(len(x), -1, rows.cells, columns.cells)


def from_cells(x: jax.Array, rows: Axis, columns: Axis) -> jax.Array:
  """The inverse of `to_cells`."""
  batch = len(x)
  x = x.reshape(batch, rows.scale, columns.scale, rows.cells, columns.cells).transpose(0, 3, 1, 4, 2)
  x = x.reshape(batch, rows.cells * rows.scale, columns.cells * columns.scale)
  return x[:, rows.before : rows.before + rows.full, columns.before : columns.before + columns.full]
