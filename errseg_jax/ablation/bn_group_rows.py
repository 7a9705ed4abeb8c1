"""P3's groups of batch normalisation: the semantic network trained anew with statistics over g images each."""

from __future__ import annotations

import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from errseg_jax.errors import UserError

WHOLE = "bn_group_all"
SIZES = {"bn_group_1": 1, "bn_group_2": 2, "bn_group_4": 4, "bn_group_8": 8, WHOLE: 0}
"""Row -> images that statistics are taken over; 0: the whole batch."""


def grouped(config: ConfigDict, base: str, size: int) -> ConfigDict:
  """The semantic stage alone, its backbone and head normalised over groups of `size` images.

  Raises:
    UserError: neither of the two has batch normalisation.
  """
  config = config.copy_and_resolve_references()
  parts = [part for part in ("backbone", "head") if "bn_group_size" in config.segmenter[part]]
  if not parts:
    raise UserError(
      f"config.segmenter.backbone.name={config.segmenter.backbone.name!r} and head.name="
      f"{config.segmenter.head.name!r} have no bn_group_size: leave the rows bn_group_* out"
    )
  for part in parts:
    config.segmenter[part].bn_group_size = size
  config.order = ("semantic",)
  return config


def _description(size: int) -> str:
  return f"batch normalisation over {f'{size} image' + 's' * (size > 1) if size else 'the whole batch'}"


BN_GROUPS: dict[str, tuple[str, Callable[[ConfigDict, str], ConfigDict]]] = {
  name: (_description(size), functools.partial(grouped, size=size)) for name, size in SIZES.items()
}
