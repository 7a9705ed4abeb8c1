import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from errseg_jax.models.backbones import Endpoints, SqueezeNet
from errseg_jax.models.heads import DeepLabV3Plus
from errseg_jax.models.segmenter import Segmenter


def kernels(head, output_stride=16):
  """(Features, path -> kernel shape) of a head on maps of a 45x61 image."""
  strides, widths = (2, 4, 8), (6, 8, 10)
  sizes = [(-(-45 // s), -(-61 // s)) for s in (*strides, output_stride)]
  *low, final = (
    jax.ShapeDtypeStruct((2, *size, width), jnp.float32)
    for size, width in zip(sizes, (*widths, 12), strict=True)
  )
  endpoints = Endpoints(tuple(low), final, strides, output_stride)
  out, variables = jax.eval_shape(lambda e: head.init_with_output(jax.random.key(0), e, False), endpoints)
  flat = jax.tree_util.tree_flatten_with_path(variables["params"])[0]
  return out, {"/".join(k.key for k in path): leaf.shape for path, leaf in flat}


@pytest.mark.parametrize("separable", [False, True])
def test_deeplab_gives_logits_at_stride_4_and_aspp_as_high(separable):
  out, shapes = kernels(DeepLabV3Plus(5, 16, 4, separable=separable))
  assert out.logits.shape == (2, 12, 16, 5)
  assert out.logits.dtype == jnp.float32
  assert out.high.shape == (2, 3, 4, 16)
  assert out.strides == (2, 4, 8)
  assert [x.shape[-1] for x in out.low] == [6, 8, 10]
  depthwise = [name for name in shapes if "depthwise/" in name]
  assert len(depthwise) == (5 if separable else 0)  # three rates, two decoder convolutions
  assert shapes["low_projection/conv/conv/kernel"] == (1, 1, 8, 4)
  dense = shapes.get("aspp/aspp1/conv/conv/kernel")
  assert dense == (None if separable else (3, 3, 12, 16))


@pytest.mark.parametrize(("output_stride", "rates"), [(8, (12, 24, 36)), (16, (6, 12, 18)), (32, (3, 6, 9))])
def test_rates_follow_the_output_stride(output_stride, rates):
  seen = []

  def record(call, args, kwargs, context):
    if context.module.name == "aspp":
      seen.append(context.module.rates)
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    kernels(DeepLabV3Plus(5, 16, 4), output_stride)
  assert seen[0] == rates


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_preprocessing_subtracts_the_mean_and_orders_the_channels(channels):
  class Echo(SqueezeNet):
    def __call__(self, x, train):
      return x

  segmenter = Segmenter(Echo(), lambda x, train: x, (10, 20, 30), (2, 4, 5), channels)
  pixel = jnp.array([12, 28, 25], jnp.uint8).reshape(1, 1, 1, 3)
  out = segmenter.apply({}, pixel).ravel().tolist()
  assert out == ([1, 2, -1] if channels == "rgb" else [-1, 2, 1])
