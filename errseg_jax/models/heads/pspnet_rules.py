"""Where the published PSPNet heads' arrays go."""

from __future__ import annotations

from typing import Any

from errseg_jax.models.heads.unit_rules import (
  mmseg_auxiliary,
  mmseg_unit,
  sequential_classifier,
  smp_classifier,
  torch_unit,
)
from errseg_jax.models.rules import Rule, prefixed, torch_conv

BINS = (1, 2, 3, 6)
# Fields of the head that differ from its defaults. mmseg's align_corners is its config's: True for crops of 8x + 1
# pixels.
FIELDS: dict[str, dict[str, Any]] = {
  "semseg": {"align_corners": True, "auxiliary_features": 256},
  "smp": {
    "kernel_size": 1,
    "classifier_kernel": 3,
    "global_bn": False,
    "map_last": True,
    "stride": 8,
    "dropout": 0.2,
    "align_corners": True,
  },
  "mmseg": {"bin_features": 512, "auxiliary_features": 256},
}


def semseg() -> tuple[Rule, ...]:
  """semseg's, with or without its auxiliary head."""
  rules: tuple[Rule, ...] = ()
  for i, bins in enumerate(BINS):
    rules += torch_unit(rf"ppm\.features\.{i}\.1", rf"ppm\.features\.{i}\.2", f"pyramid/bin{bins}")
  rules += torch_unit(r"cls\.0", r"cls\.1", "bottleneck")
  rules += torch_conv(r"cls\.4", "classifier", bias=True)
  return (*rules, *sequential_classifier("aux.", "auxiliary"))


def smp() -> tuple[Rule, ...]:
  """segmentation-models-pytorch's; its 1x1 level has a bias in place of batch normalisation."""
  rules = torch_conv(r"psp\.blocks\.0\.pool\.1\.0", "pyramid/bin1", bias=True)
  for i, bins in list(enumerate(BINS))[1:]:
    block = rf"psp\.blocks\.{i}\.pool\.1"
    rules += torch_unit(rf"{block}\.0", rf"{block}\.1", f"pyramid/bin{bins}")
  rules += torch_unit(r"conv\.0", r"conv\.1", "bottleneck")
  return (*prefixed(rules, "decoder."), *smp_classifier())


def mmseg() -> tuple[Rule, ...]:
  """mmsegmentation's PSPHead, with or without the auxiliary head."""
  rules: tuple[Rule, ...] = ()
  for i, bins in enumerate(BINS):
    rules += mmseg_unit(rf"psp_modules\.{i}\.1", f"pyramid/bin{bins}")
  rules += mmseg_unit("bottleneck", "bottleneck")
  rules += torch_conv("conv_seg", "classifier", bias=True)
  return (*prefixed(rules, "decode_head."), *mmseg_auxiliary())
