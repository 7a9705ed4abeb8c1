"""Where the published FCN heads' arrays go."""

from __future__ import annotations

from typing import Any

from errseg_jax.models.heads.unit_rules import mmseg_auxiliary, mmseg_unit, sequential_classifier, torch_unit
from errseg_jax.models.rules import Rule, prefixed, torch_conv

# Fields of the head that differ from its defaults.
FIELDS: dict[str, dict[str, Any]] = {
  "torchvision": {"auxiliary_features": 256},
  "mmseg": {"features": 512, "convs": 2, "join_input": True, "auxiliary_features": 256},
}


def torchvision() -> tuple[Rule, ...]:
  """torchvision's, with or without its auxiliary head."""
  rules = (*torch_unit("0", "1", "conv1"), *torch_conv("4", "classifier", bias=True))
  return (*prefixed(rules, "classifier."), *sequential_classifier("aux_classifier.", "auxiliary"))


def mmseg() -> tuple[Rule, ...]:
  """mmsegmentation's FCNHead, with or without the auxiliary head."""
  rules = (
    *mmseg_unit(r"convs\.0", "conv1"),
    *mmseg_unit(r"convs\.1", "conv2"),
    *mmseg_unit("conv_cat", "join"),
    *torch_conv("conv_seg", "classifier", bias=True),
  )
  return (*prefixed(rules, "decode_head."), *mmseg_auxiliary())
