"""What every head shares."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import partial
from typing import ClassVar

import jax
from flax import linen as nn

from errseg_jax.errors import UserError
from errseg_jax.models.backbones.endpoints import Endpoints
from errseg_jax.models.layers import Conv, ConvBNReLU, at_least_float32
from errseg_jax.structs import Features


class HiddenClassifier(nn.Module):
  """k x k convolution, batch normalisation, ReLU, dropout, 1x1 classifier: FCN's head and the auxiliary ones.

  Attributes:
    num_classes: C.
    unit: the convolution with its normalisation.
    features: its channels.
    dropout: rate before the classifier.
  """

  num_classes: int
  unit: partial[ConvBNReLU]
  features: int
  dropout: float = 0.1
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x, train: bool) -> jax.Array:
    """[B, h, w, K] -> float32 logits [B, h, w, C]."""
    x = self.unit(self.features, name="hidden")(x, train)
    x = nn.Dropout(self.dropout, broadcast_dims=(1, 2))(x, deterministic=not train)
    conv = Conv(self.num_classes, 1, use_bias=True, dtype=self.dtype, name="classifier")
    return at_least_float32(conv(x))


class Head(nn.Module):
  """A head's common fields; `head(endpoints, train)` returns Features.

  Attributes:
    num_classes: C.
    auxiliary_features: channels of an auxiliary head on the stage before the last, trained beside this one
      (`SemanticLoss.auxiliary_weight`); 0 = none.
    align_corners: every resize, that of the logits to the image's size included, maps corner pixels onto corner
      pixels; as the published weights were trained.
    bn_epsilon: added to the variance.
    bn_group_size: images per batch-normalisation group, 0 = the whole batch.
    dtype: compute type.
  """

  num_classes: int
  _: dataclasses.KW_ONLY
  auxiliary_features: int = 0
  align_corners: bool = False
  bn_epsilon: float = 1e-5
  bn_group_size: int = 0
  dtype: str = "float32"
  # Fields that take few values.
  choices: ClassVar[dict[str, Iterable]] = {}

  @property
  def unit(self) -> partial[ConvBNReLU]:
    """Convolution, batch normalisation, ReLU with this head's settings."""
    return partial(ConvBNReLU, bn_epsilon=self.bn_epsilon, bn_group_size=self.bn_group_size, dtype=self.dtype)

  def classify(self, x: jax.Array, kernel_size: int = 1, dilation: int = 1) -> jax.Array:
    """[B, h, w, K] -> float32 logits [B, h, w, C]."""
    conv = Conv(self.num_classes, kernel_size, 1, dilation, True, self.dtype, name="classifier")
    return at_least_float32(conv(x))

  def drop(self, x: jax.Array, rate: float, train: bool) -> jax.Array:
    """Dropout of whole channels."""
    return nn.Dropout(rate, broadcast_dims=(1, 2))(x, deterministic=not train)

  def low(self, endpoints: Endpoints, stride: int) -> jax.Array:
    """The backbone's map at a stride.

    Raises:
      UserError: it has none.
    """
    if stride not in endpoints.strides:
      raise UserError(
        f"this head needs features at stride {stride}; the backbone has {endpoints.strides}: take another of the two"
      )
    return endpoints.low[endpoints.strides.index(stride)]

  def penultimate(self, endpoints: Endpoints) -> jax.Array:
    """The backbone's stage before the last.

    Raises:
      UserError: it has none.
    """
    if endpoints.penultimate is None:
      raise UserError(
        "this head looks at the stage before the last, which the backbone lacks: take another backbone"
      )
    return endpoints.penultimate

  def finish(self, endpoints: Endpoints, logits: jax.Array, high: jax.Array, train: bool) -> Features:
    """Features with the backbone's low-level maps; auxiliary logits in training."""
    auxiliary = None
    # Its parameters must exist from the start, though only training computes it.
    if self.auxiliary_features and (train or self.is_initializing()):
      head = HiddenClassifier(
        self.num_classes, self.unit, self.auxiliary_features, dtype=self.dtype, name="auxiliary"
      )
      auxiliary = head(self.penultimate(endpoints), train)
    return Features(logits, endpoints.low, high, endpoints.strides, auxiliary, self.align_corners)
