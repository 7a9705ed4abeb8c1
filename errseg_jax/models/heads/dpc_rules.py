"""Where the arrays of TF DeepLab's dense prediction cells go."""

from __future__ import annotations

from typing import Any

from errseg_jax.models.heads.deeplabv3plus_rules import tf_decoder
from errseg_jax.models.heads.unit_rules import tf_separable, tf_unit
from errseg_jax.models.rules import Rule, prefixed

# Fields of the head that differ from its defaults.
FIELDS: dict[str, dict[str, Any]] = {"tf": {"align_corners": True}}


def tf() -> tuple[Rule, ...]:
  """Any cell: separable branches, 1x1 convolutions, pyramid pooling; and the decoder."""
  rules = (
    *tf_separable(r"branch(\d+)", r"branch\1"),
    *tf_unit(r"branch(\d+)", r"branch\1"),
    *tf_unit("concat_projection", "projection"),
  )
  return (*prefixed(rules, "meta_architecture/"), *tf_decoder())
