"""Where the arrays of segmentation-models-pytorch's PAN head go."""

from __future__ import annotations

from typing import Any

from errseg_jax.models.heads.unit_rules import smp_classifier
from errseg_jax.models.rules import Rule, prefixed, torch_bn, torch_conv

# Fields of the head that differ from its defaults.
FIELDS: dict[str, dict[str, Any]] = {"smp": {"align_corners": True}}
UNITS = {
  r"fpa\.branch1\.1": "fpa/pooling",
  r"fpa\.mid\.0": "fpa/middle",
  r"fpa\.down([12])\.1": r"fpa/down\1",
  r"fpa\.down3\.([12])": r"fpa/down3_\1",
  r"fpa\.conv([12])": r"fpa/up\1",
  r"gau([123])\.conv1\.1": r"gau\1/gate",
  r"gau([123])\.conv2": r"gau\1/low",
}


def smp() -> tuple[Rule, ...]:
  """segmentation-models-pytorch's."""
  rules: tuple[Rule, ...] = ()
  for published, ours in UNITS.items():
    rules += torch_conv(rf"{published}\.conv", ours, bias=True)
    rules += torch_bn(rf"{published}\.bn", f"{ours}/bn")
  return (*prefixed(rules, "decoder."), *smp_classifier())
