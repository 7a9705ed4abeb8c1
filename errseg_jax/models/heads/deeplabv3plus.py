"""DeepLabv3+ (Chen et al. 2018): ASPP and a one-step decoder at stride 4."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from errseg_jax.models.backbones.endpoints import Endpoints
from errseg_jax.models.heads.aspp import ASPP, scaled_rates
from errseg_jax.models.heads.head import Head
from errseg_jax.models.resize import resize
from errseg_jax.structs import Features


class PlusDecoder(Head):
  """DeepLabv3+'s decoder behind any context module.

  What the context module gives is resized to the stride-4 map, ceil(n / 4) pixels a side (257x513 for an image of
  1025x2049), and concatenated with that map's projection.

  Attributes:
    features: channels of the context module and the decoder (256 as published).
    low_features: channels that the low-level features are projected to.
    separable: depthwise-separable 3x3 convolutions.
    separable_bn: batch normalisation and ReLU between their two halves (TF, mmseg); False: nothing (SMP).
    dropout: rate in the context module.
    decoder_convs: 3x3 convolutions after the concatenation, 1 in SMP.
    decoder_dropout: rate before the classifier, 0.1 in mmseg.
  """

  features: int = 256
  low_features: int = 48
  separable: bool = True
  separable_bn: bool = True
  dropout: float = 0.1
  decoder_convs: int = 2
  decoder_dropout: float = 0.0

  def decode(self, endpoints: Endpoints, high: jax.Array, train: bool) -> Features:
    """The context module's output [B, h, w, K] -> Features with logits at stride 4 and it as `high`."""
    low = self.unit(self.low_features, 1, name="low_projection")(self.low(endpoints, 4), train)
    x = jnp.concatenate([resize(high, low.shape[1:3], self.align_corners), low], -1)
    for i in range(self.decoder_convs):
      x = self.conv(f"decoder{i + 1}")(x, train)
    x = self.drop(x, self.decoder_dropout, train)
    return self.finish(endpoints, self.classify(x), high, train)

  def conv(self, name: str) -> nn.Module:
    """A 3x3 convolution of the decoder."""
    split = {"separable": self.separable, "separable_bn": self.separable_bn}
    return self.unit(self.features, 3, name=name, **split)


class DeepLabV3Plus(PlusDecoder):
  """ASPP, joined at stride 4 with projected low-level features, two 3x3 convolutions, a 1x1 classifier.

  The defaults are the published network but for the image's mean, which no batch normalisation follows. What the
  published weights of TF, SMP and mmseg need is in `deeplabv3plus_rules.FIELDS`.

  Attributes:
    rates: dilations at output stride 16; doubled at 8, halved at 32.
    pooling_bn: batch normalisation after the image's mean.
    pooling_first: the mean is the first part of the concatenation, not the last.
    projection_kernel: k of ASPP's k x k projection, 3 in mmseg.
    context_conv: one more 3x3 convolution after ASPP, as in SMP.
  """

  rates: tuple[int, ...] = (6, 12, 18)
  pooling_bn: bool = False
  pooling_first: bool = False
  projection_kernel: int = 1
  context_conv: bool = False

  @nn.compact
  def __call__(self, endpoints: Endpoints, train: bool) -> Features:
    """Endpoints -> Features with logits at stride 4 and ASPP's output as `high`."""
    aspp = ASPP(
      self.features,
      scaled_rates(self.rates, endpoints.output_stride),
      self.separable,
      self.separable_bn,
      self.pooling_bn,
      self.pooling_first,
      self.projection_kernel,
      self.dropout,
      self.unit,
      self.dtype,
      name="aspp",
    )
    high = aspp(endpoints.final, train)
    if self.context_conv:
      high = self.conv("context_conv")(high, train)
    return self.decode(endpoints, high, train)
