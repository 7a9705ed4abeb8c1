"""The classifier of DeepLab-LargeFOV (Chen et al. 2015) and of Wide ResNet-38 (Wu et al. 2016)."""

from __future__ import annotations

from flax import linen as nn

from errseg_jax.models.backbones.endpoints import Endpoints
from errseg_jax.models.heads.head import Head
from errseg_jax.models.layers import Conv
from errseg_jax.structs import Features


class LargeFOV(Head):
  """Dropout and a classifier straight on the backbone's last map.

  With the defaults that of DeepLab-LargeFOV, whose fc6 and fc7 are part of the backbone. Wide ResNet-38's is
  hidden_features 512, kernel_size 3, dilation 12, dropout 0.

  Attributes:
    hidden_features: channels of a convolution with ReLU before the classifier; 0 = none.
    kernel_size: of both.
    dilation: of both.
    dropout: rate before the classifier.
  """

  hidden_features: int = 0
  kernel_size: int = 1
  dilation: int = 1
  dropout: float = 0.5

  @nn.compact
  def __call__(self, endpoints: Endpoints, train: bool) -> Features:
    """Endpoints -> Features with logits at the output stride and what the classifier sees as `high`."""
    x = endpoints.final
    if self.hidden_features:
      conv = Conv(self.hidden_features, self.kernel_size, 1, self.dilation, True, self.dtype, name="hidden")
      x = nn.relu(conv(x))
    logits = self.classify(self.drop(x, self.dropout, train), self.kernel_size, self.dilation)
    return self.finish(endpoints, logits, x, train)
