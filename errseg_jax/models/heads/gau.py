"""A decoder of Global Attention Upsample blocks (Li et al. 2018) behind ASPP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from flax import linen as nn

from errseg_jax.errors import UserError
from errseg_jax.models.backbones.endpoints import Endpoints
from errseg_jax.models.heads.aspp import ASPP, scaled_rates
from errseg_jax.models.heads.head import Head
from errseg_jax.models.layers import GATES, GAU, ConvGNReLU
from errseg_jax.structs import Features


class GAUDecoder(Head):
  """ASPP, then a GAU and a 3x3 convolution at each stride: the detail branch's decoder as a network's own.

  Attributes:
    features: channels of ASPP.
    decoder_features: channels of each block.
    strides: of the blocks, coarsest first.
    rates: dilations of ASPP at output stride 16; doubled at 8, halved at 32.
    gate: of the GAUs, "sigmoid" or "relu".
    dropout: rate after ASPP.
  """

  features: int = 256
  decoder_features: tuple[int, ...] = (128, 128)
  strides: tuple[int, ...] = (8, 4)
  rates: tuple[int, ...] = (6, 12, 18)
  gate: str = "sigmoid"
  dropout: float = 0.1
  choices: ClassVar[dict[str, Iterable]] = {"gate": GATES}

  @nn.compact
  def __call__(self, endpoints: Endpoints, train: bool) -> Features:
    """Endpoints -> Features with logits at the finest of `strides` and ASPP's output as `high`."""
    if len(self.decoder_features) != len(self.strides):
      raise UserError(
        f"head.decoder_features={self.decoder_features} and strides={self.strides} must be of one length"
      )
    rates = scaled_rates(self.rates, endpoints.output_stride)
    aspp = ASPP(self.features, rates, dropout=self.dropout, unit=self.unit, dtype=self.dtype, name="aspp")
    x = high = aspp(endpoints.final, train)
    for stride, features in zip(self.strides, self.decoder_features, strict=True):
      x = GAU(features, self.gate, self.dtype, name=f"gau{stride}")(self.low(endpoints, stride), x)
      x = ConvGNReLU(features, dtype=self.dtype, name=f"conv{stride}")(x)
    return self.finish(endpoints, self.classify(x), high, train)
