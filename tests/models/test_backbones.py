"""`check_backbone` is the test of a new backbone: call it with an instance and its output stride."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax.errors import UserError
from errseg_jax.models.backbones import BACKBONES, ResNet, SqueezeNet


def shapes(backbone, size=(64, 96), train=False):
  """(Endpoints of ShapeDtypeStructs, variables) without computing anything."""
  x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
  return jax.eval_shape(lambda x: backbone.init_with_output(jax.random.key(0), x, train), x)


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
@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("stem", ["plain", "semseg", "mmseg"])
def test_resnet(depth, output_stride, stem):
  check_backbone(ResNet(depth, 8, output_stride, stem), output_stride)


def test_average_shortcuts_keep_the_size():
  check_backbone(ResNet(18, 8, 16, average_shortcut=True), 16)


def test_multi_grid_needs_a_number_per_block():
  check_backbone(ResNet(50, 8, multi_grid=(1, 2, 4)), 16)
  with pytest.raises(UserError, match=r"multi_grid=\(1, 2\) needs 3 numbers"):
    shapes(ResNet(50, 8, multi_grid=(1, 2)))


@pytest.mark.parametrize("output_stride", [8, 16])
def test_squeezenet(output_stride):
  check_backbone(SqueezeNet(output_stride), output_stride)


@pytest.mark.parametrize(
  ("depth", "millions"), [(18, 11.18), (34, 21.28), (50, 23.51), (101, 42.50), (152, 58.14)]
)
def test_resnets_have_the_published_number_of_parameters(depth, millions):
  _, variables = shapes(ResNet(depth))
  count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
  assert round(count / 1e6, 2) == millions


def test_squeezenet_has_the_published_number_of_parameters():
  _, variables = shapes(SqueezeNet())
  # 1,235,496 with its classifier of 512 * 1000 + 1000.
  assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 722_496


# Those whose strides are in convolutions; a pool without its stride sees other pixels.
SAME_AT_STRIDED_PIXELS = ("resnet", "resnet basic")
NARROW: dict[str, dict[str, Any]] = {
  "resnet": {"width": 4},
  "resnet basic": {"width": 4, "depth": 18},
}


@pytest.mark.parametrize("case", {**dict.fromkeys(BACKBONES), **NARROW})
def test_a_smaller_output_stride_changes_neither_parameters_nor_the_finer_maps(case):
  """Dilation in place of stride: the same weights fit, and what comes before is the same."""
  build = functools.partial(BACKBONES[case.split()[0]], **NARROW.get(case, {}))
  coarse, fine = build(output_stride=16), build(output_stride=8)
  x = jax.random.normal(jax.random.key(1), (1, 45, 61, 3))
  variables = jax.jit(lambda x: coarse.init(jax.random.key(0), x, False))(x)
  a, b = (jax.jit(lambda v, x, m=m: m.apply(v, x, False))(variables, x) for m in (coarse, fine))
  for low_a, low_b in zip(a.low, b.low, strict=True):
    np.testing.assert_allclose(low_a, low_b, rtol=1e-5, atol=1e-6)
  assert b.final.shape[1] > a.final.shape[1]
  # Where the strided pixels lie, dilated convolutions see what the strided ones see.
  if case in SAME_AT_STRIDED_PIXELS:
    np.testing.assert_allclose(a.final, b.final[:, ::2, ::2], rtol=1e-3, atol=1e-3)
