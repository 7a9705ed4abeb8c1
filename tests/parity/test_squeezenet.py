"""SqueezeNet 1.1 against torchvision."""

import jax

from errseg_jax.models.backbones import SqueezeNet, squeezenet_rules


def test_torchvision(parity):
  """The published network pads nothing, ours the far side: what does not see that side is the same."""
  from torchvision.models import squeezenet1_1

  net = parity.randomize(squeezenet1_1(weights=None))

  def run(x):
    maps = []
    for layer in net.features:
      maps.append(x)
      x = layer(x)
    return [maps[i] for i in (2, 5, 8)] + [x]

  module = SqueezeNet(16)
  rules = squeezenet_rules.torchvision()
  variables = parity.convert_to(module, rules, net, squeezenet_rules.CLASSIFIER)
  x = parity.images((161, 193))
  out = jax.jit(lambda v, x: module.apply(v, x, False))(variables, x)
  far = (64, 30, 12, 4)  # rows and columns that stay clear of the far side

  def near(maps):
    return [y[:, :n, :n] for y, n in zip(maps, far, strict=True)]

  parity.assert_close(near([*out.low, out.final]), near(parity.run_torch(run, x)), "SqueezeNet")
