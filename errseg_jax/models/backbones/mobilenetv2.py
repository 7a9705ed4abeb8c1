"""MobileNetV2 (Sandler et al. 2018): inverted residuals with linear bottlenecks."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from errseg_jax.models.backbones.endpoints import Endpoints
from errseg_jax.models.layers import BatchNorm, Conv, DepthwiseConv

# Expansion, channels, blocks, stride of the first block.
STAGES = (
  (1, 16, 1, 1),
  (6, 24, 2, 2),
  (6, 32, 3, 2),
  (6, 64, 4, 2),
  (6, 96, 3, 1),
  (6, 160, 3, 2),
  (6, 320, 1, 1),
)


def scaled(channels: int, multiplier: float) -> int:
  """Channels times the width multiplier, to a multiple of 8 that is not below nine tenths of it."""
  exact = channels * multiplier
  rounded = max(8, int(exact + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * exact else rounded


def relu6(x: jax.Array) -> jax.Array:
  """min(max(x, 0), 6)."""
  return jnp.clip(x, 0, 6)


class InvertedResidual(nn.Module):
  """1x1 expansion, 3x3 depthwise, linear 1x1 projection; the input is added where size and channels stay.

  Attributes:
    features: output channels.
    expansion: factor on the input's channels; 1 = no expanding convolution.
    stride: of the depthwise convolution.
    dilation: of the depthwise convolution.
  """

  features: int
  expansion: int
  stride: int = 1
  dilation: int = 1
  bn_epsilon: float = 1e-5
  bn_group_size: int = 0
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x, train: bool):
    bn = partial(BatchNorm, epsilon=self.bn_epsilon, group_size=self.bn_group_size, dtype=self.dtype)
    y = x
    if self.expansion > 1:
      y = Conv(self.expansion * x.shape[-1], 1, dtype=self.dtype, name="expand")(y)
      y = relu6(bn(name="expand_bn")(y, train))
    y = DepthwiseConv(3, self.stride, self.dilation, self.dtype, name="depthwise")(y)
    y = relu6(bn(name="depthwise_bn")(y, train))
    y = bn(name="project_bn")(Conv(self.features, 1, dtype=self.dtype, name="project")(y), train)
    return x + y if self.stride == 1 and x.shape[-1] == self.features else y


class MobileNetV2(nn.Module):
  """MobileNetV2 without its classifier.

  Padding is symmetric, as in PyTorch. TensorFlow's is too on the odd sizes (513, 1025) of its segmentation
  networks, not on even ones.

  Attributes:
    multiplier: of the channels.
    output_stride: 8, 16 or 32.
    first_dilation: the first block of a stage whose stride became dilation has the dilation of the stage before
      ("previous": the same numbers at the strided pixels; TensorFlow), or its own stage's ("stage":
      segmentation-models-pytorch).
    last_features: channels of the closing 1x1 convolution, 0 = none, as in TensorFlow's segmentation networks.
    bn_epsilon: added to the variance; TensorFlow and Keras have 1e-3.
    bn_group_size: images per batch-normalisation group, 0 = the whole batch.
    dtype: compute type.
  """

  multiplier: float = 1.0
  output_stride: int = 16
  first_dilation: str = "previous"
  last_features: int = 1280
  bn_epsilon: float = 1e-5
  bn_group_size: int = 0
  dtype: str = "float32"
  # Fields that take few values.
  choices: ClassVar[dict[str, Iterable[Any]]] = {
    "output_stride": (8, 16, 32),
    "first_dilation": ("previous", "stage"),
  }

  @nn.compact
  def __call__(self, x, train: bool):
    """[B, H, W, 3] -> Endpoints with strides (2, 4, 8): the last map of each stride."""
    bn = partial(BatchNorm, epsilon=self.bn_epsilon, group_size=self.bn_group_size, dtype=self.dtype)
    unit = partial(
      InvertedResidual, bn_epsilon=self.bn_epsilon, bn_group_size=self.bn_group_size, dtype=self.dtype
    )
    x = Conv(scaled(32, self.multiplier), 3, 2, dtype=self.dtype, name="conv")(x)
    x = relu6(bn(name="conv_bn")(x, train))
    ends: list[jax.Array] = []
    stride, dilation, index = 2, 1, 0
    for expansion, channels, count, grow in STAGES:
      if grow > 1:
        ends.append(x)
      first = dilation
      if stride * grow > self.output_stride:
        dilation, grow = dilation * grow, 1
      stride *= grow
      first = first if self.first_dilation == "previous" else dilation
      for i in range(count):
        place = (1, dilation) if i else (grow, first)
        block = unit(scaled(channels, self.multiplier), expansion, *place, name=f"block{index}")
        x, index = block(x, train), index + 1
    if self.last_features:
      x = Conv(self.last_features, 1, dtype=self.dtype, name="last")(x)
      x = relu6(bn(name="last_bn")(x, train))
    return Endpoints(tuple(ends[:3]), x, (2, 4, 8), stride, penultimate=ends[3])
