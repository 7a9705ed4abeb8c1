"""TF DeepLab's heads under TF-slim's variable names, computed once more with PyTorch's functions."""

import jax
import numpy as np
import pytest

from errseg_jax.convert.engine import convert
from errseg_jax.models.backbones import Endpoints
from errseg_jax.models.heads import (
  DPC,
  DeepLabV3,
  DeepLabV3Plus,
  deeplabv3_rules,
  deeplabv3plus_rules,
  dpc_rules,
)
from errseg_jax.models.heads.dpc_cells import PUBLISHED
from errseg_jax.models.resize import resize

CLASSES, INPUTS, LOW, WIDTH, PROJECTED = 5, 16, 8, 12, 4
SIZES = ((65, 97), (97, 81))


class Slim:
  """TF-slim's layers over a dictionary of variables, which are made when first asked for."""

  def __init__(self):
    self.rng, self.arrays = np.random.default_rng(0), {}

  def variable(self, name, shape, low=-0.3, high=0.3):
    import torch

    if name not in self.arrays:
      self.arrays[name] = self.rng.uniform(low, high, shape).astype(np.float32)
    return torch.from_numpy(self.arrays[name])

  def norm(self, x, scope):
    """Batch normalisation with epsilon 1e-5 and ReLU."""
    import torch

    shape = (x.shape[1],)
    gamma, variance = (
      self.variable(f"{scope}/BatchNorm/{n}", shape, 0.5, 1.5) for n in ("gamma", "moving_variance")
    )
    beta, mean = (self.variable(f"{scope}/BatchNorm/{n}", shape) for n in ("beta", "moving_mean"))
    return torch.relu(torch.nn.functional.batch_norm(x, mean, variance, gamma, beta, eps=1e-5))

  def conv(self, x, scope, outputs):
    from torch.nn.functional import conv2d

    return conv2d(x, self.variable(f"{scope}/weights", (1, 1, x.shape[1], outputs)).permute(3, 2, 0, 1))

  def unit(self, x, scope, outputs=WIDTH):
    return self.norm(self.conv(x, scope, outputs), scope)

  def separable(self, x, scope, rate=(1, 1), outputs=WIDTH):
    from torch.nn.functional import conv2d

    weights = self.variable(f"{scope}_depthwise/depthwise_weights", (3, 3, x.shape[1], 1)).permute(2, 3, 0, 1)
    x = conv2d(x, weights, padding=rate, dilation=rate, groups=x.shape[1])
    return self.unit(self.norm(x, f"{scope}_depthwise"), f"{scope}_pointwise", outputs)

  def aspp(self, x, rates):
    import torch

    pooled = self.unit(x.mean((2, 3), keepdim=True), "image_pooling").expand(-1, -1, *x.shape[2:])
    parts = [self.separable(x, f"aspp{i + 1}", (rate, rate)) for i, rate in enumerate(rates)]
    return self.unit(torch.cat([pooled, self.unit(x, "aspp0"), *parts], 1), "concat_projection")

  def cell(self, x, factor):
    import torch

    outputs = []
    for i, branch in enumerate(PUBLISHED):
      source = x if branch.input < 0 else outputs[branch.input]
      rate = (branch.rate[0] * factor, branch.rate[1] * factor)
      outputs.append(self.separable(source, f"meta_architecture/branch{i}", rate))
    return self.unit(torch.cat(outputs, 1), "meta_architecture/concat_projection")

  def decode(self, x, low):
    import torch

    low = self.unit(low, "decoder/feature_projection0", PROJECTED)
    x = torch.cat([align(x, low.shape[2:]), low], 1)
    return self.separable(self.separable(x, "decoder/decoder_conv0"), "decoder/decoder_conv1")

  def logits(self, x):
    biases = self.variable("logits/semantic/biases", (CLASSES,))
    return self.conv(x, "logits/semantic", CLASSES) + biases.reshape(1, -1, 1, 1)


def align(x, size):
  from torch.nn.functional import interpolate

  return interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def random_maps(size, output_stride):
  rng = np.random.default_rng(1)
  shapes = [(2, *(-(-n // s) for n in size), c) for s, c in ((4, LOW), (output_stride, INPUTS))]
  return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def networks(output_stride):
  """name -> (our head, its rules, theirs: (Slim, low, final) -> features before the classifier)."""
  factor = 16 // output_stride
  rates = [factor * rate for rate in (6, 12, 18)]
  fields = deeplabv3plus_rules.FIELDS["tf"]
  return {
    "deeplabv3plus": (
      DeepLabV3Plus(CLASSES, WIDTH, PROJECTED, **fields),
      deeplabv3plus_rules.tf(),
      lambda slim, low, x: slim.decode(slim.aspp(x, rates), low),
    ),
    "dpc": (
      DPC(CLASSES, WIDTH, PROJECTED, **dpc_rules.FIELDS["tf"]),
      dpc_rules.tf(),
      lambda slim, low, x: slim.decode(slim.cell(x, factor), low),
    ),
    "mobilenetv2": (
      DeepLabV3(CLASSES, WIDTH, **deeplabv3_rules.FIELDS["tf_mobilenetv2"]),
      deeplabv3_rules.tf(),
      lambda slim, low, x: slim.aspp(x, ()),
    ),
  }


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", ["deeplabv3plus", "dpc", "mobilenetv2"])
def test_tf_deeplab(parity, name, output_stride):
  import torch

  head, rules, function = networks(output_stride)[name]
  slim, variables = Slim(), None
  for size in SIZES:
    maps = random_maps(size, output_stride)
    with torch.no_grad():
      tensors = [torch.from_numpy(x.transpose(0, 3, 1, 2).copy()) for x in maps]
      theirs = align(slim.logits(function(slim, *tensors)), size).numpy().transpose(0, 2, 3, 1)
    endpoints = Endpoints((maps[0],), maps[1], (4,), output_stride)
    if variables is None:
      like = jax.eval_shape(lambda e: head.init(jax.random.key(0), e, False), endpoints)
      variables = convert(rules, slim.arrays, like, name)
    out = jax.jit(lambda v, e: head.apply(v, e, False))(variables, endpoints)
    ours = np.asarray(resize(out.logits, size, out.align_corners))
    parity.assert_close([ours], [theirs], f"TF {name} at {size}")
