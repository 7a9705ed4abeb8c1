"""The local branch of a guided network (P3): LargeFOV's fc6 and fc7 as convolutions of any backbone's map."""

from __future__ import annotations

import jax
from flax import linen as nn

from errseg_jax.models.backbones.endpoints import Endpoints
from errseg_jax.models.heads.head import Head
from errseg_jax.models.layers import Conv
from errseg_jax.structs import Features


class Local(Head):
  """Two convolutions with ReLU and dropout, 3x3 dilated and 1x1, and a 1x1 classifier (P3, Fig. 2).

  Branches and guidance get the backbone's map as `high`, which this head shares with them.

  Attributes:
    features: channels of both.
    dilation: of the first: 12 at output stride 8, 6 at 16.
    dropout: rate after each.
  """

  features: int = 1024
  dilation: int = 12
  dropout: float = 0.5

  @nn.compact
  def __call__(self, endpoints: Endpoints, train: bool) -> Features:
    """Endpoints -> Features with logits at the output stride and the backbone's map as `high`."""
    x: jax.Array = endpoints.final
    for name, kernel_size, dilation in (("conv1", 3, self.dilation), ("conv2", 1, 1)):
      conv = Conv(self.features, kernel_size, 1, dilation, True, self.dtype, name=name)
      x = self.drop(nn.relu(conv(x)), self.dropout, train)
    return self.finish(endpoints, self.classify(x), endpoints.final, train)
