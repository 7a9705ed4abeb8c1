"""DeepLabv3 (Chen et al. 2017): ASPP and a classifier at the output stride."""

from __future__ import annotations

from flax import linen as nn

from errseg_jax.models.backbones.endpoints import Endpoints
from errseg_jax.models.heads.aspp import ASPP, scaled_rates
from errseg_jax.models.heads.head import Head
from errseg_jax.structs import Features


class DeepLabV3(Head):
  """ASPP, a 3x3 convolution, a 1x1 classifier. The defaults are torchvision's network.

  Attributes:
    features: channels (256 as published).
    rates: dilations at output stride 16; doubled at 8, halved at 32. () leaves a 1x1 convolution and the image's
      mean, the head of TF's MobileNetV2.
    separable: depthwise-separable convolutions in ASPP.
    separable_bn: batch normalisation and ReLU between their two halves.
    pooling_bn: batch normalisation after the image's mean.
    pooling_first: the mean is the first part of the concatenation, not the last.
    final_conv: the 3x3 convolution after ASPP, which TF's networks lack.
    dropout: rate after ASPP.
  """

  features: int = 256
  rates: tuple[int, ...] = (6, 12, 18)
  separable: bool = False
  separable_bn: bool = True
  pooling_bn: bool = True
  pooling_first: bool = False
  final_conv: bool = True
  dropout: float = 0.5

  @nn.compact
  def __call__(self, endpoints: Endpoints, train: bool) -> Features:
    """Endpoints -> Features with logits at the output stride and ASPP's output as `high`."""
    aspp = ASPP(
      self.features,
      scaled_rates(self.rates, endpoints.output_stride),
      self.separable,
      self.separable_bn,
      self.pooling_bn,
      self.pooling_first,
      dropout=self.dropout,
      unit=self.unit,
      dtype=self.dtype,
      name="aspp",
    )
    x = high = aspp(endpoints.final, train)
    if self.final_conv:
      x = self.unit(self.features, 3, name="final_conv")(x, train)
    return self.finish(endpoints, self.classify(x), high, train)
