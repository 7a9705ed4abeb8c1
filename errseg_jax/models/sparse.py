"""Sparse correction: a decoder's finest block works only on the tiles where the frozen network is unsure.

The blocks before it run on the whole map, for their pooling feeds the gates. How many tiles an image wants is known
when it is seen; a program has a few counts to choose from, and the whole map beyond the largest. Every image is looked
at alone, so that what becomes of it does not depend on the others of its batch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from errseg_jax.models.layers import at_least_float32
from errseg_jax.models.patches import Patches, by_tile, grid
from errseg_jax.models.resize import resize

MARGIN = 3  # cells that three 3x3 convolutions see
BUCKETS = 4  # counts of tiles that a program is compiled for, beside the whole map
MOST = 0.85  # from here on the whole map is as fast
SAMPLE = 16  # of this many tiles that are not wanted one speaks for the others in statistics over the map


@dataclasses.dataclass(frozen=True)
class Sparse:
  """Which tiles a detail branch works on.

  Attributes:
    threshold: tiles whose mean of 1 - max P_sb is up to this keep the frozen network's logits.
    tile: side of a tile, pixels.
  """

  threshold: float
  tile: int = 32


Work = Callable[[jax.Array, jax.Array, Patches | None], jax.Array]
"""The finest block: (low [1, h, w, Cl], x [1, h', w', Ch], tiles or None for all) -> logits of the map
[1, h, w, C] or of the tiles [K, side, side, C]."""


def doubt(logits: jax.Array, size: Sequence[int], side: int) -> jax.Array:
  """Mean of 1 - max P over the cells of each tile, logits [h', w', C] -> [tiles] of a map of `size`."""
  p = 1 - jax.nn.softmax(at_least_float32(logits)).max(-1)
  return by_tile(resize(p[None, ..., None], size)[0, ..., 0], side)


def counts(size: Sequence[int], side: int) -> tuple[int, ...]:
  """How many tiles a program may work on, ascending: with their margins they hold at most MOST of the map's cells."""
  most = int(MOST * size[0] * size[1]) // (side + 2 * MARGIN) ** 2
  rows, columns = grid(size, side)
  most = min(most, rows * columns - 1)
  return tuple(sorted({most * (k + 1) // BUCKETS for k in range(BUCKETS)} - {0}))


def sample_size(tiles: int) -> int:
  """Tiles that speak for those which are not wanted."""
  return -(-tiles // SAMPLE)


def patches(mass: jax.Array, threshold: float, count: int, side: int, size: Sequence[int]) -> Patches:
  """`count` tiles: the wanted ones, and behind them a sample of the others, evenly over the order of their mass.

  Which ones the sample takes does not depend on `count`; what is left of it counts nothing.
  """
  order, wanted = jnp.argsort(-mass, stable=True), (mass > threshold).sum()
  others, sample, slot = mass.size - wanted, sample_size(mass.size), jnp.arange(count)
  place = wanted + (2 * (slot - wanted) + 1) * others // (2 * sample)
  place = jnp.where(slot < wanted, slot, jnp.clip(place, 0, mass.size - 1))
  weight = jnp.where(slot < wanted, 1.0, jnp.where(slot < wanted + sample, others / sample, 0.0))
  return Patches(order[place], weight, side, size)


def bucket(wanted: jax.Array, size: Sequence[int], side: int, sampled: bool) -> jax.Array:
  """Which of `counts` holds so many wanted tiles, int32; one beyond the last: the whole map."""
  rows, columns = grid(size, side)
  needed = wanted + (sample_size(rows * columns) if sampled else 0)
  return jnp.searchsorted(jnp.asarray(counts(size, side), jnp.int32), needed)


def worked(wanted: jax.Array, size: Sequence[int], side: int, sampled: bool) -> jax.Array:
  """Share of the tiles that run for counts of wanted ones [...], float32."""
  rows, columns = grid(size, side)
  shares = [count / (rows * columns) for count in counts(size, side)]
  return jnp.asarray([*shares, 1.0], jnp.float32)[bucket(wanted, size, side, sampled)]


def on_wanted(
  work: Work, low: jax.Array, x: jax.Array, mass: jax.Array, sparse: Sparse, side: int, sampled: bool
) -> tuple[jax.Array, jax.Array]:
  """The finest block on the tiles of one image that are wanted.

  Args:
    work: the block.
    low: [1, h, w, Cl].
    x: of the block before, [1, h', w', Ch].
    mass: of each tile, `doubt`.
    sparse: which tiles.
    side: of a tile, cells of `low`.
    sampled: the block takes statistics over the map, for which tiles that are not wanted are needed too.

  Returns:
    Logits [1, h, w, C], 0 in the tiles that are not wanted, and where they were computed, bool [1, h, w, 1].
  """
  size = low.shape[1:3]
  rows, columns = grid(size, side)
  wanted = mass > sparse.threshold

  def joined(tiles: jax.Array) -> jax.Array:
    flat = tiles.reshape(rows, columns, side, side, -1).swapaxes(1, 2)
    return flat.reshape(1, rows * side, columns * side, -1)[:, : size[0], : size[1]]

  def whole() -> tuple[jax.Array, jax.Array]:
    return work(low, x, None), jnp.ones((1, *size, 1), bool)

  def some(count: int) -> tuple[jax.Array, jax.Array]:
    chosen = patches(mass, sparse.threshold, count, side, size)
    tiles = work(low, x, chosen)
    # Behind the wanted ones stand those of the sample: their number is out of range, so they are dropped.
    index = jnp.where(jnp.arange(count) < wanted.sum(), chosen.index, mass.size)
    out = jnp.zeros((mass.size, *tiles.shape[1:]), tiles.dtype).at[index].set(tiles, mode="drop")
    known = jnp.broadcast_to(wanted[:, None, None, None], (mass.size, side, side, 1))
    return joined(out), joined(known)

  if not counts(size, side):
    return whole()
  which = bucket(wanted.sum(), size, side, sampled)
  return jax.lax.switch(which, [*(functools.partial(some, n) for n in counts(size, side)), whole])
