"""FCN (Long et al. 2015) on a dilated backbone."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from errseg_jax.models.backbones.endpoints import Endpoints
from errseg_jax.models.heads.head import Head
from errseg_jax.structs import Features


class FCN(Head):
  """3x3 convolutions and a 1x1 classifier. The defaults are torchvision's network.

  Attributes:
    features: channels of the convolutions; 0 = a quarter of the backbone's. 512 in mmseg.
    convs: how many in a row, 2 in mmseg.
    join_input: another one over the backbone's map and the last of them, as in mmseg.
    dropout: rate before the classifier.
    map_as_high: branches get the backbone's map as `high`, which they share with this head (the coarse branch of
      P2), in place of what the classifier sees.
  """

  features: int = 0
  convs: int = 1
  join_input: bool = False
  dropout: float = 0.1
  map_as_high: bool = False

  @nn.compact
  def __call__(self, endpoints: Endpoints, train: bool) -> Features:
    """Endpoints -> Features with logits at the output stride and what the classifier sees, or the map, as `high`."""
    x = endpoints.final
    features = self.features or x.shape[-1] // 4
    for i in range(self.convs):
      x = self.unit(features, 3, name=f"conv{i + 1}")(x, train)
    if self.join_input:
      x = self.unit(features, 3, name="join")(jnp.concatenate([endpoints.final, x], -1), train)
    logits = self.classify(self.drop(x, self.dropout, train))
    return self.finish(endpoints, logits, endpoints.final if self.map_as_high else x, train)
