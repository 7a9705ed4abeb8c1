"""Xception in DeepLab's layout against timm's."""

import pytest

from errseg_jax.models.backbones import Xception
from errseg_jax.models.rules import torch_bn, torch_conv, torch_depthwise

ENTRY_BLOCKS = {41: 3, 65: 3, 71: 5}
STRIDED = {41: (0, 1, 2), 65: (0, 1, 2), 71: (0, 2, 4)}  # of the entry flow
MIDDLE_BLOCKS = {41: 8, 65: 16, 71: 16}


def timm_rules(depth):
  """timm counts its blocks through; its names of a block's parts are those of a separable convolution."""
  entry, middle = ENTRY_BLOCKS[depth], MIDDLE_BLOCKS[depth]
  names = [f"entry{i + 1}_1" for i in range(entry)] + [f"middle1_{i + 1}" for i in range(middle)]
  rules = []
  for i in (0, 1):
    rules += [*torch_conv(rf"stem\.{i}\.conv", f"conv1_{i + 1}")]
    rules += [*torch_bn(rf"stem\.{i}\.bn", f"conv1_{i + 1}_bn")]
  for block, ours in enumerate([*names, "exit1_1", "exit2_1"]):
    theirs = rf"blocks\.{block}"
    rules += torch_conv(rf"{theirs}\.shortcut\.conv", f"{ours}/shortcut")
    rules += torch_bn(rf"{theirs}\.shortcut\.bn", f"{ours}/shortcut_bn")
    for n in (1, 2, 3):
      separable = rf"{theirs}\.stack\.conv{n}"
      rules += torch_depthwise(rf"{separable}\.conv_dw", f"{ours}/depthwise{n}")
      rules += torch_bn(rf"{separable}\.bn_dw", f"{ours}/depthwise{n}_bn")
      rules += torch_conv(rf"{separable}\.conv_pw", f"{ours}/pointwise{n}")
      rules += torch_bn(rf"{separable}\.bn_pw", f"{ours}/pointwise{n}_bn")
  return rules


@pytest.mark.parametrize(("depth", "output_stride"), [(41, 8), (65, 16), (71, 16)])
def test_timm(parity, depth, output_stride):
  import timm

  net = parity.randomize(timm.create_model(f"xception{depth}", output_stride=output_stride))
  taken = []
  for block in STRIDED[depth]:
    # The next ReLU works in place: what the decoder takes is what was there before.
    layer = net.blocks[block].stack.conv2
    layer.register_forward_hook(lambda module, inputs, out: taken.append(out.clone()))

  def run(x):
    taken.clear()
    final = net.forward_features(x)
    return [*taken, final]

  module = Xception(depth, output_stride=output_stride)
  parity.check_backbone(module, timm_rules(depth), net, run, (*parity.COUNTERS, r"head\..*"))
