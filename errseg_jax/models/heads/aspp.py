"""Atrous spatial pyramid pooling (Chen et al. 2017, 2018) in its published forms."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
from flax import linen as nn

from errseg_jax.models.layers import Conv, ConvBNReLU, at_least_float32


def scaled_rates(rates: tuple[int, ...], output_stride: int) -> tuple[int, ...]:
  """Dilations given for output stride 16, at another one: doubled at 8, halved at 32."""
  return tuple(max(1, rate * 16 // output_stride) for rate in rates)


class ASPP(nn.Module):
  """1x1, dilated 3x3, and the image's mean, concatenated and projected.

  Attributes:
    features: channels of each part and of the result.
    rates: dilations in feature pixels, one for each 3x3 convolution.
    separable: depthwise-separable 3x3 convolutions.
    separable_bn: batch normalisation and ReLU between their two halves.
    pooling_bn: batch normalisation of the image's mean, as published. With one image in a group its variance is
      zero, so without published weights it is better off.
    pooling_first: the order in which the parts are concatenated (TF, mmseg); False: the mean comes last.
    projection_kernel: k of the k x k projection.
    dropout: rate after the projection.
    unit: convolution with batch normalisation and ReLU.
  """

  features: int
  rates: tuple[int, ...]
  separable: bool = False
  separable_bn: bool = True
  pooling_bn: bool = False
  pooling_first: bool = False
  projection_kernel: int = 1
  dropout: float = 0.1
  unit: partial[ConvBNReLU] = partial(ConvBNReLU)
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x, train: bool):
    """[B, h, w, K] -> [B, h, w, features]."""
    split = {"separable": self.separable, "separable_bn": self.separable_bn}
    parts = [self.unit(self.features, 1, name="aspp0")(x, train)]
    for i, rate in enumerate(self.rates):
      parts.append(self.unit(self.features, 3, dilation=rate, name=f"aspp{i + 1}", **split)(x, train))
    pooled = jnp.broadcast_to(self.pooling(x, train), parts[0].shape)
    parts = [pooled, *parts] if self.pooling_first else [*parts, pooled]
    project = self.unit(self.features, self.projection_kernel, name="projection")
    x = project(jnp.concatenate(parts, -1), train)
    return nn.Dropout(self.dropout, broadcast_dims=(1, 2))(x, deterministic=not train)

  def pooling(self, x, train: bool):
    """The image's mean, [B, 1, 1, features]."""
    pooled = at_least_float32(x).mean((1, 2), keepdims=True).astype(self.dtype)
    if self.pooling_bn:
      return self.unit(self.features, 1, name="image_pooling")(pooled, train)
    return nn.relu(Conv(self.features, 1, use_bias=True, dtype=self.dtype, name="image_pooling")(pooled))
