"""How a network at rest sees an image: its views and tiles."""

from __future__ import annotations

import math

from ml_collections import ConfigDict

from errseg_jax.assemble.data import pad_value
from errseg_jax.assemble.sections import construct, known
from errseg_jax.errors import UserError
from errseg_jax.models.tiles import Tiles
from errseg_jax.models.views import COMBINATIONS, Padding, Views


def views(config: ConfigDict) -> Views | None:
  """The views of an image; None where it is seen once, as it is.

  Raises:
    UserError: scales that are none, an unknown combination, or one to learn of a single view.
  """
  padding = Padding(config.loader.size_multiple, config.segmenter.size_remainder, pad_value(config))
  found = construct(Views, config.views, "views", padding=padding)
  known(found.combine, COMBINATIONS, "config.views.combine")
  numbers = all(type(s) in (int, float) and 0 < s < math.inf for s in found.scales)
  if not found.scales or not numbers or len(set(found.scales)) < len(found.scales):
    raise UserError(
      f"config.views.scales={found.scales} must be different factors above 0, as (0.8, 1.0, 1.2)"
    )
  if len(found.each) == 1 and found.combine == "learned":
    raise UserError(
      "config.views.combine='learned' wants more views than one: set views.scales or views.mirror"
    )
  check_share(found)
  return None if found.each == ((1.0, False),) else found


def check_share(found: Views) -> None:
  """Refuses views of a share of the tiles that make no sense.

  Raises:
    UserError: no share, a tile of nothing, or a combination that is not the mean.
  """
  if not 0 < found.share <= 1:
    raise UserError(f"config.views.share={found.share} must be above 0 and at most 1 (the whole image)")
  for key, least in (("tile", 1), ("margin", 0)):
    if getattr(found, key) < least:
      raise UserError(f"config.views.{key}={getattr(found, key)} must be at least {least}")
  if found.share == 1:
    return
  if found.combine != "mean":
    raise UserError(
      f"config.views.share={found.share} wants config.views.combine='mean', not {found.combine!r}"
    )
  side, padding = found.tile + 2 * found.margin, found.padding
  if side < padding.multiple or (side - padding.remainder) % padding.multiple:
    plus = f" plus {padding.remainder}" if padding.remainder else ""
    raise UserError(
      f"config.views.tile={found.tile} with a margin of {found.margin} on both sides is {side} pixels; the network "
      f"takes multiples of loader.size_multiple={padding.multiple}{plus}"
    )


def tiles(config: ConfigDict) -> Tiles | None:
  """The tiles of an image; None where it is seen whole.

  Raises:
    UserError: a size that the network does not take, or an overlap that leaves no step from tile to tile.
  """
  found = construct(Tiles, config.tiles, "tiles", grid=config.loader.size_multiple)
  multiple, remainder = config.loader.size_multiple, config.segmenter.size_remainder
  if found.size < 0 or (found.size and (found.size < multiple or (found.size - remainder) % multiple)):
    plus = f" plus {remainder}" if remainder else ""
    raise UserError(
      f"config.tiles.size={found.size} must be a multiple of loader.size_multiple={multiple}{plus}, or 0: whole images"
    )
  if not found.size:
    return None
  if not 0 <= found.overlap < found.size / 2:
    raise UserError(
      f"config.tiles.overlap={found.overlap} must be at least 0 and below half of tiles.size={found.size}"
    )
  if found.size - found.overlap < multiple:
    raise UserError(
      f"config.tiles.size={found.size} must be at least tiles.overlap={found.overlap} plus "
      f"loader.size_multiple={multiple}, the step that tiles move by"
    )
  return found
