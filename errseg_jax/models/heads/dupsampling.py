"""Data-dependent upsampling (Tian et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from errseg_jax.models.backbones.endpoints import Endpoints
from errseg_jax.models.heads.aspp import ASPP, scaled_rates
from errseg_jax.models.heads.head import Head
from errseg_jax.models.layers import Conv, at_least_float32, param_dtype
from errseg_jax.models.resize import resize
from errseg_jax.structs import Features


def depth_to_space(x: jax.Array, ratio: int) -> jax.Array:
  """Each pixel becomes ratio x ratio of them, [B, h, w, ratio * ratio * C] -> [B, h * ratio, w * ratio, C]."""
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height, width, ratio, ratio, channels // ratio**2)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height * ratio, width * ratio, -1)


class DUpsampling(Head):
  """ASPP with low-level features at the output stride, and a learned linear map from each pixel to a block of logits.

  The low-level maps come down to ASPP's grid, not ASPP up to theirs; the block replaces bilinear upsampling. The
  logits are divided by a learned temperature, without which the softmax of a linear map trains slowly.

  Attributes:
    features: channels.
    low_features: channels that each low-level map is projected to.
    low_strides: the maps that join.
    rates: dilations of ASPP at output stride 16; doubled at 8, halved at 32.
    logit_stride: of the logits, a divisor of the output stride; 1 as published.
    dropout: rate after ASPP.
  """

  features: int = 256
  low_features: int = 48
  low_strides: tuple[int, ...] = (4, 8)
  rates: tuple[int, ...] = (6, 12, 18)
  logit_stride: int = 1
  dropout: float = 0.1
  choices: ClassVar[dict[str, Iterable]] = {"logit_stride": (1, 2, 4, 8)}

  @nn.compact
  def __call__(self, endpoints: Endpoints, train: bool) -> Features:
    """Endpoints -> Features with logits at `logit_stride` and ASPP's output as `high`."""
    rates = scaled_rates(self.rates, endpoints.output_stride)
    aspp = ASPP(self.features, rates, dropout=self.dropout, unit=self.unit, dtype=self.dtype, name="aspp")
    high = aspp(endpoints.final, train)
    parts = [high]
    for stride in self.low_strides:
      low = self.unit(self.low_features, 1, name=f"low{stride}")(self.low(endpoints, stride), train)
      parts.append(resize(low, high.shape[1:3], self.align_corners))
    x = self.unit(self.features, 3, name="decoder1")(jnp.concatenate(parts, -1), train)
    x = self.unit(self.features, 3, name="decoder2")(x, train)
    return self.finish(endpoints, self.upsample(x, endpoints), high, train)

  def upsample(self, x: jax.Array, endpoints: Endpoints) -> jax.Array:
    """[B, h, w, K] -> float32 logits [B, h * ratio, w * ratio, C], cut to the image."""
    ratio = endpoints.output_stride // self.logit_stride
    conv = Conv(self.num_classes * ratio**2, 1, dtype=self.dtype, name="dupsampling")
    temperature = self.param("temperature", nn.initializers.ones, (), param_dtype(self.dtype))
    logits = at_least_float32(depth_to_space(conv(x), ratio)) / temperature
    # The last block may reach beyond the image: its size follows from the finest map, to less than a stride.
    finest, stride = endpoints.low[0].shape[1:3], endpoints.strides[0]
    height, width = (-(-n * stride // self.logit_stride) for n in finest)
    return logits[:, :height, :width]
