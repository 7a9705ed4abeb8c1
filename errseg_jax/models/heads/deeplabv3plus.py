"""DeepLabv3+ (Chen et al. 2018): ASPP and a one-step decoder at stride 4."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
from flax import linen as nn

from errseg_jax.models.backbones.endpoints import Endpoints
from errseg_jax.models.layers import Conv, ConvBNReLU, at_least_float32, resize
from errseg_jax.structs import Features


class ASPP(nn.Module):
  """Atrous spatial pyramid pooling: 1x1, three dilated 3x3, and the image's mean, concatenated and projected.

  Attributes:
    features: channels of each part and of the result.
    rates: dilations in feature pixels.
    separable: depthwise-separable 3x3 convolutions.
    dropout: rate after the projection.
  """

  features: int
  rates: tuple[int, ...]
  separable: bool = False
  dropout: float = 0.1
  bn_group_size: int = 0
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x, train: bool):
    unit = partial(ConvBNReLU, bn_group_size=self.bn_group_size, dtype=self.dtype)
    parts = [unit(self.features, 1, name="aspp0")(x, train)]
    for i, rate in enumerate(self.rates):
      aspp = unit(self.features, 3, dilation=rate, separable=self.separable, name=f"aspp{i + 1}")
      parts.append(aspp(x, train))
    pooled = at_least_float32(x).mean((1, 2), keepdims=True).astype(self.dtype)
    # No batch normalisation on a 1x1 map: with one image in a group its variance is zero.
    pooled = nn.relu(Conv(self.features, 1, use_bias=True, dtype=self.dtype, name="image_pooling")(pooled))
    parts.append(jnp.broadcast_to(pooled, parts[0].shape))
    x = unit(self.features, 1, name="projection")(jnp.concatenate(parts, -1), train)
    return nn.Dropout(self.dropout, broadcast_dims=(1, 2))(x, deterministic=not train)


class DeepLabV3Plus(nn.Module):
  """ASPP, joined at stride 4 with projected low-level features, two 3x3 convolutions, a 1x1 classifier.

  Attributes:
    num_classes: C.
    features: channels of ASPP and decoder (256 as published).
    low_features: channels that the low-level features are projected to.
    rates: dilations at output stride 16; doubled at 8, halved at 32.
    separable: depthwise-separable convolutions in ASPP and decoder.
    dropout: rate after ASPP.
  """

  num_classes: int
  features: int = 256
  low_features: int = 48
  rates: tuple[int, ...] = (6, 12, 18)
  separable: bool = True
  dropout: float = 0.1
  bn_group_size: int = 0
  dtype: str = "float32"

  @nn.compact
  def __call__(self, endpoints: Endpoints, train: bool) -> Features:
    """Endpoints -> Features with logits at stride 4 and ASPP's output as `high`."""
    unit = partial(ConvBNReLU, bn_group_size=self.bn_group_size, dtype=self.dtype)
    rates = tuple(max(1, rate * 16 // endpoints.output_stride) for rate in self.rates)
    aspp = ASPP(
      self.features, rates, self.separable, self.dropout, self.bn_group_size, self.dtype, name="aspp"
    )
    high = aspp(endpoints.final, train)
    low = endpoints.low[endpoints.strides.index(4)]
    low = unit(self.low_features, 1, name="low_projection")(low, train)
    x = jnp.concatenate([resize(high, low.shape[1:3]), low], -1)
    x = unit(self.features, separable=self.separable, name="decoder1")(x, train)
    x = unit(self.features, separable=self.separable, name="decoder2")(x, train)
    logits = Conv(self.num_classes, 1, use_bias=True, dtype=self.dtype, name="classifier")(x)
    return Features(at_least_float32(logits), endpoints.low, high, endpoints.strides)
