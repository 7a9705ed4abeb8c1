"""Where the published DeepLabv3 heads' arrays go."""

from __future__ import annotations

from typing import Any

from errseg_jax.models.heads import aspp_rules
from errseg_jax.models.heads.unit_rules import sequential_classifier, smp_classifier, torch_unit
from errseg_jax.models.rules import Rule, prefixed, tf_conv, torch_conv

# Fields of the head that differ from its defaults. SMP's rates are its own dilations (12, 24, 36) at output stride 8;
# it has the same ones at 16, where rates is then (12, 24, 36).
FIELDS: dict[str, dict[str, Any]] = {
  "torchvision": {"auxiliary_features": 256},
  "smp": {"align_corners": True, "separable_bn": False},
  "tf_mobilenetv2": {"rates": (), "pooling_first": True, "final_conv": False, "align_corners": True},
}


def torchvision() -> tuple[Rule, ...]:
  """torchvision's, with or without its auxiliary head."""
  rules = (*torch_unit("1", "2", "final_conv"), *torch_conv("4", "classifier", bias=True))
  return (
    *aspp_rules.torchvision("classifier.0."),
    *prefixed(rules, "classifier."),
    *sequential_classifier("aux_classifier.", "auxiliary"),
  )


def smp() -> tuple[Rule, ...]:
  """segmentation-models-pytorch's, with a dense or a separable ASPP."""
  return (
    *aspp_rules.torchvision("decoder.0."),
    *prefixed(torch_unit("1", "2", "final_conv"), "decoder."),
    *smp_classifier(),
  )


def tf() -> tuple[Rule, ...]:
  """TF DeepLab's networks without a decoder."""
  return (*aspp_rules.tf(), *tf_conv("logits/semantic", "classifier", bias=True))
