"""Pyramid Attention Network (Li et al. 2018) as segmentation-models-pytorch builds it."""

from __future__ import annotations

from functools import partial

import jax
from flax import linen as nn

from errseg_jax.models.backbones.endpoints import Endpoints
from errseg_jax.models.heads.head import Head
from errseg_jax.models.layers import BatchNorm, Conv, at_least_float32
from errseg_jax.models.resize import resize
from errseg_jax.structs import Features


def halve(x: jax.Array) -> jax.Array:
  """2x2 max pooling of [B, h, w, K]; an odd last row or column falls away, a single one stays."""
  window = (min(2, x.shape[1]), min(2, x.shape[2]))
  return nn.max_pool(x, window, window)


class BiasedConvBN(nn.Module):
  """Convolution with a bias and batch normalisation."""

  features: int
  kernel_size: int
  bn: partial[BatchNorm]
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x, train: bool):
    x = Conv(self.features, self.kernel_size, use_bias=True, dtype=self.dtype, name="conv")(x)
    return self.bn(name="bn")(x, train)


class FPA(nn.Module):
  """Feature Pyramid Attention: the map, weighed by a one-channel pyramid over 7x7, 5x5 and 3x3 kernels, plus its mean.

  Attributes:
    features: channels of the result.
    conv: a BiasedConvBN but for its channels and kernel.
    align_corners: of the resizes.
  """

  features: int
  conv: partial[BiasedConvBN]
  align_corners: bool = True

  @nn.compact
  def __call__(self, x, train: bool):
    """[B, h, w, K] -> [B, h, w, features]."""

    def unit(x, features, kernel_size, name):
      return nn.relu(self.conv(features, kernel_size, name=name)(x, train))

    mean = at_least_float32(x).mean((1, 2), keepdims=True).astype(x.dtype)
    mean = unit(mean, self.features, 1, "pooling")
    middle = unit(x, self.features, 1, "middle")
    x1 = unit(halve(x), 1, 7, "down1")
    x2 = unit(halve(x1), 1, 5, "down2")
    x3 = unit(unit(halve(x2), 1, 3, "down3_1"), 1, 3, "down3_2")
    y = unit(x2, 1, 5, "up2") + resize(x3, x2.shape[1:3], self.align_corners)
    y = unit(x1, 1, 7, "up1") + resize(y, x1.shape[1:3], self.align_corners)
    return resize(y, x.shape[1:3], self.align_corners) * middle + mean


class NormalisedGAU(nn.Module):
  """Global Attention Upsample with batch normalisation: upsample(high) + conv(low) * sigmoid(conv(mean(high)))."""

  conv: partial[BiasedConvBN]
  align_corners: bool = True

  @nn.compact
  def __call__(self, low, high, train: bool):
    """[B, h, w, Cl], [B, h', w', K] -> [B, h, w, K]."""
    features = high.shape[-1]
    low = nn.relu(self.conv(features, 3, name="low")(low, train))
    mean = at_least_float32(high).mean((1, 2), keepdims=True).astype(high.dtype)
    gate = nn.sigmoid(self.conv(features, 1, name="gate")(mean, train))
    return resize(high, low.shape[1:3], self.align_corners) + low * gate


class PAN(Head):
  """FPA, then a GAU each for the stage before the last and the maps at strides 8 and 4; a 3x3 classifier.

  SMP resizes with `align_corners`, which `pan_rules.FIELDS` sets.

  Attributes:
    features: channels throughout.
  """

  features: int = 32

  @nn.compact
  def __call__(self, endpoints: Endpoints, train: bool) -> Features:
    """Endpoints -> Features with logits at stride 4 and FPA's output as `high`."""
    bn = partial(BatchNorm, epsilon=self.bn_epsilon, group_size=self.bn_group_size, dtype=self.dtype)
    conv = partial(BiasedConvBN, bn=bn, dtype=self.dtype)
    x = high = FPA(self.features, conv, self.align_corners, name="fpa")(endpoints.final, train)
    maps = [self.penultimate(endpoints), self.low(endpoints, 8), self.low(endpoints, 4)]
    for name, low in zip(("gau3", "gau2", "gau1"), maps, strict=True):
      x = NormalisedGAU(conv, self.align_corners, name=name)(low, x, train)
    return self.finish(endpoints, self.classify(x, 3), high, train)
