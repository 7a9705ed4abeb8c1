"""`check_backbone` is the test of a new backbone: call it with an instance and its output stride."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from errseg_jax.errors import UserError
from errseg_jax.models.backbones import (
  BACKBONES,
  VGG,
  MobileNetV2,
  ResNet,
  SqueezeNet,
  WideResNet,
  Xception,
  xception,
)
from errseg_jax.models.layers import Conv, DepthwiseConv

# One module in the middle: the layout is that of the published networks, compiling it takes a third of the time.
xception.ENTRIES[9], xception.MIDDLE[9] = xception.ENTRY, 1


def shapes(backbone, size=(64, 96), train=False):
  """(Endpoints of ShapeDtypeStructs, variables) without computing anything."""
  x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
  return jax.eval_shape(lambda x: backbone.init_with_output(jax.random.key(0), x, train), x)


def parameters(backbone):
  """Millions of them, to two places."""
  return round(sum(leaf.size for leaf in jax.tree.leaves(shapes(backbone)[1]["params"])) / 1e6, 2)


def check_backbone(backbone, output_stride):
  """Every map has the size ceil(n / stride) that it claims, for sizes that divide and sizes that do not."""
  for size in ((64, 96), (45, 61), (33, 32)):
    out, _ = shapes(backbone, size)

    def at(stride, size=size):
      return tuple(-(-n // stride) for n in size)

    assert out.strides == (2, 4, 8)
    assert out.output_stride == output_stride
    assert [x.shape[1:3] for x in out.low] == [at(s) for s in out.strides]
    assert out.final.shape[1:3] == at(output_stride)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize(
  "build",
  [
    lambda s: ResNet(18, 8, s),
    lambda s: ResNet(50, 8, s, "semseg", "stage"),
    lambda s: ResNet(50, 8, s, "mmseg", average_shortcut=True),
    lambda s: ResNet(18, 8, s, "mmseg", dilate_conv2=False),
    lambda s: MobileNetV2(0.35, s),
    lambda s: MobileNetV2(0.35, s, "stage", last_features=0),
    lambda s: VGG(s),
    lambda s: VGG(s, batch_norm=True, classifier="full"),
    lambda s: VGG(s, classifier="large_fov"),
    lambda s: Xception(41, 0.1, s),
    lambda s: Xception(71, 0.1, s),
    lambda s: WideResNet("a1", 0.1, s),
    lambda s: WideResNet("a2", 0.1, s),
  ],
)
def test_maps_have_the_sizes_that_they_claim(build, output_stride):
  check_backbone(build(output_stride), output_stride)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_squeezenet(output_stride):
  check_backbone(SqueezeNet(output_stride), output_stride)


@pytest.mark.parametrize(
  ("backbone", "millions"),
  [
    (ResNet(18), 11.18),
    (ResNet(34), 21.28),
    (ResNet(50), 23.51),
    (ResNet(101), 42.50),
    (ResNet(152), 58.14),
    (Xception(65), 37.87),
    (Xception(71), 40.29),
    (WideResNet("a1"), 105.07),
    (WideResNet("a2"), 105.07),
    (MobileNetV2(), 2.22),  # 3.50 with its classifier of 1280 * 1000 + 1000
    (VGG(), 14.71),
    (VGG(32, classifier="full"), 134.26),  # 138.36 with its last layer of 4096 * 1000 + 1000
    (VGG(8, classifier="large_fov"), 20.48),
  ],
  ids=lambda value: repr(value).split("(")[0],
)
def test_the_number_of_parameters_is_the_published_one(backbone, millions):
  assert parameters(backbone) == millions


def test_squeezenet_has_the_published_number_of_parameters():
  _, variables = shapes(SqueezeNet())
  # 1,235,496 with its classifier of 512 * 1000 + 1000.
  assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 722_496


@pytest.mark.parametrize(
  ("size", "decoder", "last"), [((513, 513), 129, 33), ((1025, 2049), (257, 513), (65, 129))]
)
@pytest.mark.parametrize("depth", [65, 71])
def test_xception_has_the_published_sizes(depth, size, decoder, last):
  out, _ = shapes(Xception(depth), size)
  assert tuple(x.shape[-1] for x in out.low) == (128, 256, 728)
  assert out.low[1].shape[1:3] == (decoder if isinstance(decoder, tuple) else (decoder,) * 2)
  assert out.final.shape[1:] == (*(last if isinstance(last, tuple) else (last,) * 2), 2048)


def receptive_field(backbone, size):
  """Pixels across that one value of the last map sees: 1 + sum of (kernel - 1) * dilation * stride so far."""
  field = [1]

  def record(call, args, kwargs, context):
    module = context.module
    if isinstance(module, Conv | DepthwiseConv) and context.method_name == "__call__":
      stride = round(size / args[0].shape[1])
      field[0] += (module.kernel_size - 1) * module.dilation * stride
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    shapes(backbone, (size, size))
  return field[0]


@pytest.mark.parametrize(
  ("depth", "output_stride", "want"),
  [
    # Both convolutions of the stem see 7 pixels; then 3 modules in steps of 2, 4, 8, the middle flow's 16 in steps
    # of 16, the exit flow's 2, whose last is dilated by 2 where the map keeps its size.
    (65, 16, 7 + 6 * (2 + 4 + 8) + 6 * 16 * 16 + 6 * (16 + 32)),
    (65, 8, 7 + 6 * (2 + 4 + 8) + 6 * 16 * 16 + 6 * (16 + 32)),
    (71, 16, 7 + 6 * (2 + 4 + 4 + 8 + 8) + 6 * 16 * 16 + 6 * (16 + 32)),
  ],
)
def test_xception_sees_what_its_layer_table_says(depth, output_stride, want):
  assert receptive_field(Xception(depth, 0.05, output_stride), 1025) == want


def dilations(backbone):
  """{block: dilations of its 3x3 convolutions} of a backbone."""
  found: dict[str, set[int]] = {}

  def record(call, args, kwargs, context):
    module = context.module
    if isinstance(module, Conv | DepthwiseConv) and module.kernel_size == 3:
      found.setdefault(module.path[0], set()).add(module.dilation)
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    shapes(backbone)
  return {name: sorted(rates) for name, rates in found.items()}


@pytest.mark.parametrize(
  ("backbone", "want"),
  [
    (Xception(9, 0.05, 16), {"entry3_1": [1], "middle1_1": [1], "exit1_1": [1], "exit2_1": [2]}),
    (Xception(9, 0.05, 8), {"entry3_1": [1], "middle1_1": [2], "exit1_1": [2], "exit2_1": [4]}),
    (Xception(9, 0.05, 16, (1, 2, 4)), {"exit1_1": [1], "exit2_1": [2, 4, 8]}),
    (WideResNet("a1", 0.05, 8), {"level5_0": [1, 2], "level5_1": [2], "level6_0": [4], "level7_0": [4]}),
    (WideResNet("a2", 0.05, 8), {"level5_0": [2], "level5_1": [2], "level6_0": [4], "level7_0": [4]}),
    (ResNet(50, 4, 8), {"layer3_0": [1], "layer3_1": [2], "layer4_0": [2], "layer4_1": [4]}),
    (ResNet(50, 4, 8, first_dilation="stage"), {"layer3_0": [2], "layer4_0": [4], "layer4_2": [4]}),
    (ResNet(18, 4, 16), {"layer4_0": [1, 2], "layer4_1": [2]}),
    (ResNet(18, 4, 16, dilate_conv2=False), {"layer4_0": [1], "layer4_1": [1, 2]}),
    (ResNet(50, 4, 16, multi_grid=(1, 2, 4)), {"layer4_0": [1], "layer4_1": [4], "layer4_2": [8]}),
  ],
  ids=lambda value: repr(value).split("(")[0] if not isinstance(value, dict) else "",
)
def test_dilations_are_the_published_ones(backbone, want):
  got = dilations(backbone)
  assert {name: got[name] for name in want} == want


def test_a_grid_needs_as_many_numbers_as_there_are_convolutions():
  with pytest.raises(UserError, match=r"multi_grid=\(1, 2\) needs 3 numbers, one per block"):
    shapes(ResNet(50, 8, multi_grid=(1, 2)))
  with pytest.raises(UserError, match=r"multi_grid=\(1, 2\) needs 3 numbers, one per convolution"):
    shapes(Xception(41, 0.1, multi_grid=(1, 2)))


# Those whose strides are in convolutions; a pool without its stride sees other pixels.
SAME_AT_STRIDED_PIXELS = ("mobilenetv2", "resnet", "resnet basic", "wide_resnet", "xception")
NARROW: dict[str, dict[str, Any]] = {
  "mobilenetv2": {"multiplier": 0.35},
  "resnet": {"width": 4},
  "resnet basic": {"width": 4, "depth": 18},
  "wide_resnet": {"multiplier": 0.05},
  "xception": {"multiplier": 0.05, "depth": 9},
}


def random_variables(backbone):
  """Variables of which none vanishes, without compiling the initialisation."""
  rng = np.random.default_rng(0)

  def fill(leaf):
    if len(leaf.shape) < 2:
      return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
    return rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape).astype(leaf.dtype)

  return jax.tree.map(fill, shapes(backbone)[1])


@pytest.mark.parametrize("case", {**dict.fromkeys(BACKBONES), **NARROW})
def test_a_smaller_output_stride_changes_neither_parameters_nor_the_finer_maps(case):
  """Dilation in place of stride: the same weights fit, and what comes before is the same."""
  build = functools.partial(BACKBONES[case.split()[0]], **NARROW.get(case, {}))
  coarse, fine = build(output_stride=16), build(output_stride=8)
  x = jax.random.normal(jax.random.key(1), (1, 45, 61, 3))
  variables = random_variables(coarse)
  a, b = (jax.jit(lambda v, x, m=m: m.apply(v, x, False))(variables, x) for m in (coarse, fine))
  for low_a, low_b in zip(a.low, b.low, strict=True):
    np.testing.assert_allclose(low_a, low_b, rtol=1e-5, atol=1e-5 * np.abs(low_a).max())
  assert b.final.shape[1] > a.final.shape[1]
  # Where the strided pixels lie, dilated convolutions see what the strided ones see.
  if case in SAME_AT_STRIDED_PIXELS:
    np.testing.assert_allclose(a.final, b.final[:, ::2, ::2], rtol=1e-3, atol=1e-4 * np.abs(a.final).max())
