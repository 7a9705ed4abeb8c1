"""Where the published DeepLabv3+ heads' arrays go."""

from __future__ import annotations

from typing import Any

from errseg_jax.models.heads import aspp_rules
from errseg_jax.models.heads.unit_rules import (
  mmseg_auxiliary,
  mmseg_separable,
  mmseg_unit,
  smp_classifier,
  smp_separable,
  tf_separable,
  tf_unit,
  torch_unit,
)
from errseg_jax.models.rules import Rule, prefixed, tf_conv, torch_conv

# Fields of the head that differ from its defaults. SMP's dilations are (12, 24, 36) at output stride 16 and at 8, where
# rates is then (6, 12, 18). mmseg's align_corners is its config's: True for crops of 8x + 1 pixels.
FIELDS: dict[str, dict[str, Any]] = {
  "tf": {"pooling_bn": True, "pooling_first": True, "align_corners": True},
  "smp": {
    "rates": (12, 24, 36),
    "separable_bn": False,
    "pooling_bn": True,
    "context_conv": True,
    "decoder_convs": 1,
    "dropout": 0.5,
    "align_corners": True,
  },
  "mmseg": {
    "features": 512,
    "pooling_bn": True,
    "pooling_first": True,
    "projection_kernel": 3,
    "dropout": 0.0,
    "decoder_dropout": 0.1,
    "auxiliary_features": 256,
  },
}


def smp() -> tuple[Rule, ...]:
  """segmentation-models-pytorch's."""
  rules = (
    *smp_separable(r"aspp\.1", r"aspp\.2", "context_conv"),
    *torch_unit(r"block1\.0", r"block1\.1", "low_projection"),
    *smp_separable(r"block2\.0", r"block2\.1", "decoder1"),
  )
  return (*aspp_rules.torchvision("decoder.aspp.0."), *prefixed(rules, "decoder."), *smp_classifier())


def mmseg() -> tuple[Rule, ...]:
  """mmsegmentation's DepthwiseSeparableASPPHead, with or without the auxiliary head."""
  rules = (
    *mmseg_unit("c1_bottleneck", "low_projection"),
    *mmseg_separable(r"sep_bottleneck\.0", "decoder1"),
    *mmseg_separable(r"sep_bottleneck\.1", "decoder2"),
    *torch_conv("conv_seg", "classifier", bias=True),
  )
  return (*aspp_rules.mmseg(), *prefixed(rules, "decode_head."), *mmseg_auxiliary())


def tf_decoder() -> tuple[Rule, ...]:
  """TF DeepLab's decoder and classifier, behind ASPP or a dense prediction cell."""
  return (
    *tf_unit("decoder/feature_projection0", "low_projection"),
    *tf_separable("decoder/decoder_conv0", "decoder1"),
    *tf_separable("decoder/decoder_conv1", "decoder2"),
    *tf_conv("logits/semantic", "classifier", bias=True),
  )


def tf() -> tuple[Rule, ...]:
  """TF DeepLab's."""
  return (*aspp_rules.tf(), *tf_decoder())
