"""Where the published ASPPs' arrays go."""

from __future__ import annotations

from errseg_jax.models.heads.unit_rules import (
  mmseg_separable,
  mmseg_unit,
  smp_separable,
  tf_separable,
  tf_unit,
  torch_unit,
)
from errseg_jax.models.rules import Rule, prefixed


def torchvision(prefix: str) -> tuple[Rule, ...]:
  """torchvision and segmentation-models-pytorch, dense or separable."""
  rules = (
    *torch_unit(r"convs\.([0-3])\.0", r"convs\.([0-3])\.1", r"aspp\1"),
    *smp_separable(r"convs\.([1-3])\.0", r"convs\.([1-3])\.1", r"aspp\1"),
    *torch_unit(r"convs\.4\.1", r"convs\.4\.2", "image_pooling"),
    *torch_unit(r"project\.0", r"project\.1", "projection"),
  )
  return prefixed(rules, prefix, "aspp")


def mmseg(prefix: str = "decode_head.") -> tuple[Rule, ...]:
  """mmsegmentation's separable ASPP."""
  rules = (
    *mmseg_unit(r"image_pool\.1", "image_pooling"),
    *mmseg_unit(r"aspp_modules\.0", "aspp0"),
    *mmseg_separable(r"aspp_modules\.([1-3])", r"aspp\1"),
    *mmseg_unit("bottleneck", "projection"),
  )
  return prefixed(rules, prefix, "aspp")


def tf() -> tuple[Rule, ...]:
  """TF DeepLab's, or the part of it that MobileNetV2's networks have."""
  rules = (
    *tf_unit("image_pooling", "image_pooling"),
    *tf_unit("aspp0", "aspp0"),
    *tf_separable("aspp([1-3])", r"aspp\1"),
    *tf_unit("concat_projection", "projection"),
  )
  return prefixed(rules, "", "aspp")
