"""Error-guided views: the semantic network looks again, at other scales and mirrored, where it is likely wrong.

Of the first pass the tiles with the largest mean P_ep are cut out with a margin, a fixed share of them, so a program
has fixed shapes. Their scores are the mean over the first pass and the other views, as of whole images
(`models.views`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection

import jax
import jax.numpy as jnp

from errseg_jax.models.error_branch import max_probability_logit
from errseg_jax.models.patches import by_tile, grid
from errseg_jax.models.views import Views, look
from errseg_jax.structs import Outputs

Look = Callable[[jax.Array, Collection[str]], Outputs]
"""(image uint8 [B, h, w, 3], branches) -> Outputs of a single view."""


def look_again(
  function: Look, image: jax.Array, views: Views, wanted: Collection[str], residual: bool
) -> Outputs:
  """Outputs of a first pass, with the semantic scores of doubtful tiles averaged over the views.

  Args:
    function: the network.
    image: uint8 [B, H, W, 3].
    views: to see it in, and in which share of its tiles.
    wanted: branches of the first pass. With the error branch P_ep says where to look, else 1 - max P_sb.
    residual: the detail logits are a correction of the semantic ones, and move with them.

  Returns:
    Outputs; the detail branch's own logits, or its correction, and P_ep are those of the first pass.
  """
  first = function(image, wanted)
  size = image.shape[1:3]
  side = views.tile + 2 * views.margin
  rows, columns = grid(size, views.tile)
  count = math.ceil(views.share * rows * columns)
  logit = max_probability_logit(first.semantic) if first.error is None else first.error
  mass = jax.vmap(lambda z: by_tile(jax.nn.sigmoid(z), views.tile))(logit)
  index = jax.lax.top_k(mass, count)[1]
  corners = jnp.stack([index // columns, index % columns], -1) * views.tile
  # The last ones end where the image does.
  corners = jnp.clip(corners, 0, jnp.asarray([max(n - views.tile, 0) for n in size]).reshape(1, 1, 2))
  places = jnp.clip(corners - views.margin, 0, jnp.asarray([max(n - side, 0) for n in size]).reshape(1, 1, 2))
  crop, core = ([min(n, m) for m in size] for n in (side, views.tile))
  crops = jax.vmap(functools.partial(cut, size=crop))(image, places)
  seen = flat(jax.vmap(functools.partial(cut, size=crop))(first.semantic, places))
  for view in views.each:
    if view != (1.0, False):
      own = look(lambda x: function(x, ()).semantic, flat(crops), view, views.padding)
      seen = seen + own
  mean = (seen / len({*views.each, (1.0, False)})).reshape(len(image), count, *seen.shape[1:])
  semantic = jax.vmap(functools.partial(pasted, core=core))(first.semantic, mean, corners, corners - places)
  detail = first.detail
  if detail is not None and residual:
    detail = detail + (semantic - first.semantic)
  return dataclasses.replace(first, semantic=semantic, detail=detail)


def flat(x: jax.Array) -> jax.Array:
  """[B, K, ...] -> [B K, ...]."""
  return x.reshape(-1, *x.shape[2:])


def cut(x: jax.Array, places: jax.Array, size: list[int]) -> jax.Array:
  """Parts of `size` of a map [H, W, C], by their first pixels [K, 2] -> [K, h, w, C]."""
  return jax.vmap(lambda p: jax.lax.dynamic_slice(x, (*p, 0), (*size, x.shape[-1])))(places)


def pasted(
  x: jax.Array, parts: jax.Array, corners: jax.Array, within: jax.Array, core: list[int]
) -> jax.Array:
  """A map [H, W, C] with the cores of parts [K, h, w, C] in place of its own.

  Args:
    x: the map.
    parts: of it, with margins.
    corners: first pixels of the cores in the map, [K, 2].
    within: the same in the parts.
    core: height and width of a core.
  """

  def paste(x: jax.Array, part: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
    values, corner, start = part
    own = jax.lax.dynamic_slice(values, (*start, 0), (*core, x.shape[-1]))
    return jax.lax.dynamic_update_slice(x, own, (*corner, 0)), None

  return jax.lax.scan(paste, x, (parts, corners, within))[0]
