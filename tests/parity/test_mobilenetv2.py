"""MobileNetV2 against torchvision and segmentation-models-pytorch."""

import pytest

from errseg_jax.models.backbones import MobileNetV2, mobilenetv2_rules
from errseg_jax.models.backbones.mobilenetv2_rules import CLASSIFIER
from errseg_jax.models.rules import torch_bn, torch_conv, torch_depthwise


@pytest.mark.parametrize("multiplier", [1.0, 0.35])
def test_torchvision(parity, multiplier):
  from torchvision.models import mobilenet_v2

  net = parity.randomize(mobilenet_v2(weights=None, width_mult=multiplier))

  def run(x):
    maps = []
    for layer in net.features:
      x = layer(x)
      maps.append(x)
    return [maps[i] for i in (1, 3, 6, 18)]

  module = MobileNetV2(multiplier, output_stride=32)
  parity.check_backbone(module, mobilenetv2_rules.torchvision(), net, run, (*parity.COUNTERS, *CLASSIFIER))


@pytest.mark.parametrize("output_stride", [8, 16])
def test_smp_dilates_a_whole_stage(parity, output_stride):
  from segmentation_models_pytorch.encoders import get_encoder

  net = parity.randomize(get_encoder("mobilenet_v2", weights=None, output_stride=output_stride))
  parity.check_backbone(
    MobileNetV2(output_stride=output_stride, first_dilation="stage"),
    mobilenetv2_rules.torchvision(),
    net,
    lambda x: [y for i, y in enumerate(net(x)) if i not in (0, 4)],
  )


def timm_rules():
  """timm's names: stages and blocks are counted apart, the first block is a separable convolution."""
  counts = (1, 2, 3, 4, 3, 3, 1)
  rules = [*torch_conv("conv_stem", "conv"), *torch_bn("bn1", "conv_bn")]
  blocks = [rf"blocks\.{stage}\.{i}" for stage, count in enumerate(counts) for i in range(count)]
  for index, block in enumerate(blocks):
    parts = [("conv_pw", "expand"), ("conv_dw", "depthwise"), ("conv_pwl", "project")]
    if index == 0:
      parts = [("conv_dw", "depthwise"), ("conv_pw", "project")]
    for n, (theirs, name) in enumerate(parts, start=1):
      conv = torch_depthwise if name == "depthwise" else torch_conv
      rules += conv(rf"{block}\.{theirs}", f"block{index}/{name}")
      rules += torch_bn(rf"{block}\.bn{n}", f"block{index}/{name}_bn")
  return rules


@pytest.mark.parametrize("output_stride", [8, 16])
def test_timm_takes_the_dilation_before_in_the_first_block_of_a_stage(parity, output_stride):
  import timm

  net = parity.randomize(
    timm.create_model("mobilenetv2_100", output_stride=output_stride, features_only=True)
  )
  module = MobileNetV2(output_stride=output_stride, last_features=0)
  parity.check_backbone(module, timm_rules(), net, lambda x: [y for i, y in enumerate(net(x)) if i != 3])
