"""Early exit of a cascade: the fine network looks only where the coarse labels are likely wrong.

A pixel whose attention is at most a threshold keeps its coarse result. The pyramid is pooled once, of the whole map;
the convolutions after it run on tiles that hold a cell which some other pixel is interpolated from, with the margin
that these convolutions see. So every pixel over the threshold comes out as it does of the whole map, whatever the
tiles are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from errseg_jax.models.resize import resize
from errseg_jax.structs import Outputs

CELLS = {"cpu": 128}  # cells that are convolved at once: what a CPU's caches hold
MANY_CELLS = 4096  # on accelerators
MARGIN = 1  # cells that a 3x3 convolution sees beyond its own


@dataclasses.dataclass(frozen=True)
class EarlyExit:
  """Where the fine network may stay away.

  Attributes:
    threshold: pixels with P(the coarse label is wrong), as the attention says it, up to this are left as they are.
    tile: side of a tile, cells of the shared map.
  """

  threshold: float
  tile: int = 2


def exit_early(model: Any, variables: Any, image: jax.Array, wanted: Collection[str]) -> Outputs:
  """A cascade at rest whose fine network runs on tiles.

  Args:
    model: an `ErrorAware` with `refine` and `early_exit`.
    variables: trained.
    image: uint8 [B, H, W, 3].
    wanted: branches, the error and the detail branch among them.

  Returns:
    Outputs whose detail logits are the coarse ones at the pixels that exit.
  """
  outputs, kept = model.apply(variables, image, wanted=wanted, mutable=["intermediates"])
  pooled, corners = kept["intermediates"]["detail"]["pooled"][0], model.segmenter.head.align_corners
  goes_on = jax.nn.sigmoid(outputs.error) > model.early_exit.threshold
  classifier = model.detail.classifier(padded=False)
  own = {kind: tree["detail"]["classify"] for kind, tree in variables.items() if "detail" in tree}
  needed = needed_cells(goes_on, pooled.shape[1:3], corners)
  cells = on_tiles(lambda x: classifier.apply(own, x, False), pooled, needed, model.early_exit.tile)
  fine = resize(cells, image.shape[1:3], corners)
  detail = jnp.where(goes_on[..., None], fine, outputs.semantic)
  refined = model.refine(outputs.semantic, detail, outputs.error)
  return dataclasses.replace(outputs, detail=detail, refined=refined)


def needed_cells(pixels: jax.Array, size: Sequence[int], align_corners: bool = False) -> jax.Array:
  """Cells of a map of `size` (h, w) that some pixel is interpolated from, bool [B, H, W] -> bool [B, h, w]."""
  rows, columns = (
    jnp.asarray(neighbours(n, m, align_corners)) for n, m in zip(pixels.shape[1:], size, strict=True)
  )
  return jnp.einsum("ph,bpq,qw->bhw", rows, pixels.astype(rows.dtype), columns) > 0


def neighbours(pixels: int, cells: int, align_corners: bool) -> np.ndarray:
  """1 where `resize` takes a pixel from a cell, float32 [pixels, cells]."""
  scale = (cells - 1) / max(pixels - 1, 1) if align_corners else cells / pixels
  shift = 0.0 if align_corners else 0.5
  place = (np.arange(pixels) + shift) * scale - shift
  before = np.floor(place).astype(int)
  out = np.zeros((pixels, cells), np.float32)
  for cell in (before, before + 1):
    out[np.arange(pixels), np.clip(cell, 0, cells - 1)] = 1
  return out


def wanted_tiles(needed: jax.Array, tile: int) -> jax.Array:
  """Tiles that hold a needed cell, bool [B, h, w] -> bool [B, ceil(h / tile), ceil(w / tile)]."""
  batch, height, width = needed.shape
  rows, columns = -(-height // tile), -(-width // tile)
  whole = jnp.pad(needed, ((0, 0), (0, rows * tile - height), (0, columns * tile - width)))
  return whole.reshape(batch, rows, tile, columns, tile).any((2, 4))


def on_tiles(
  function: Callable[[jax.Array], jax.Array], x: jax.Array, needed: jax.Array, tile: int
) -> jax.Array:
  """`function` of the tiles of a map that hold a needed cell; 0 in the others.

  Args:
    function: [n, tile + 2, tile + 2, K] -> [n, tile, tile, C].
    x: [B, h, w, K]; zeros are around it.
    needed: bool [B, h, w].
    tile: cells.

  Returns:
    [B, h, w, C].
  """
  batch, height, width, depth = x.shape
  wanted = wanted_tiles(needed, tile)
  rows, columns = wanted.shape[1:]
  wanted = wanted.ravel()
  beyond = (rows * tile - height, columns * tile - width)
  x = jnp.pad(x, ((0, 0), *((MARGIN, more + MARGIN) for more in beyond), (0, 0)))
  order = jnp.argsort(~wanted, stable=True)  # the wanted ones first
  chunk = max(1, CELLS.get(jax.default_backend(), MANY_CELLS) // tile**2)
  order = jnp.pad(order, (0, -order.size % chunk), mode="edge")
  side = tile + 2 * MARGIN

  def cut(place: Sequence[jax.Array]) -> jax.Array:
    sample, row, column = place
    return jax.lax.dynamic_slice(x, (sample, row * tile, column * tile, 0), (1, side, side, depth))[0]

  def step(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    done, out = carry
    index = jax.lax.dynamic_slice(order, (done,), (chunk,))
    tiles = jax.vmap(cut)(jnp.unravel_index(index, (batch, rows, columns)))
    return done + chunk, out.at[index].set(function(tiles))

  like = jax.eval_shape(function, jax.ShapeDtypeStruct((1, side, side, depth), x.dtype))
  start = jnp.zeros((wanted.size, *like.shape[1:]), like.dtype)
  count = wanted.sum()
  _, out = jax.lax.while_loop(lambda carry: carry[0] < count, step, (jnp.zeros((), count.dtype), start))
  out = out.reshape(batch, rows, columns, tile, tile, -1).swapaxes(2, 3)
  return out.reshape(batch, rows * tile, columns * tile, -1)[:, :height, :width]
