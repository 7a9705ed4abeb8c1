"""VGG-16 against torchvision."""

import pytest

from errseg_jax.models.backbones import VGG, vgg_rules
from errseg_jax.models.layers import Conv
from errseg_jax.models.rules import LAYOUTS


@pytest.mark.parametrize(("output_stride", "batch_norm"), [(16, False), (32, True)])
def test_torchvision(parity, output_stride, batch_norm):
  import torch
  from torchvision.models import vgg

  # Without the dense layers, which are a hundred million numbers.
  net = parity.randomize(vgg.make_layers(vgg.cfgs["D"], batch_norm))
  pools = [i for i, layer in enumerate(net) if type(layer).__name__ == "MaxPool2d"]

  def run(x):
    maps = []
    for layer in net:
      maps.append(x)
      x = layer(x)
    before = [maps[i] for i in pools]  # what goes into each pool
    return [*before[1:4], x if output_stride == 32 else before[4]]

  module = VGG(output_stride, batch_norm)
  whole = torch.nn.ModuleDict({"features": net})
  rules = vgg_rules.torchvision(batch_norm=batch_norm)
  # Even sizes: on odd ones the published pools drop the last row, ours keep it.
  parity.check_backbone(module, rules, whole, run, sizes=((64, 96), (96, 64)))


def test_the_dense_layers_become_convolutions(parity):
  """Of the 7x7 convolution's map the centre is the dense layer's result."""
  import torch

  x = parity.images((7, 7))[..., :2]
  dense = parity.randomize(torch.nn.Linear(2 * 49, 5))
  want = dense(torch.from_numpy(x.transpose(0, 3, 1, 2).reshape(2, -1).copy())).detach().numpy()
  (rule,) = [r for r in vgg_rules.torchvision() if r.target == "fc6/conv/kernel"]
  kernel = LAYOUTS[rule.layout](dense.weight.detach().numpy())
  variables = {"params": {"conv": {"kernel": kernel, "bias": dense.bias.detach().numpy()}}}
  got = Conv(5, 7, use_bias=True).apply(variables, x)
  parity.assert_close([got[:, 3, 3]], [want], "fc6")
