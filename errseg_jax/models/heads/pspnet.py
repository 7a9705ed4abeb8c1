"""PSPNet (Zhao et al. 2017): pyramid pooling."""

from __future__ import annotations

from flax import linen as nn

from errseg_jax.models.backbones.endpoints import Endpoints
from errseg_jax.models.heads.head import Head
from errseg_jax.models.pyramid import PyramidPooling
from errseg_jax.structs import Features


class PSPNet(Head):
  """Means over grids of several sizes, projected, resized and concatenated with the map; a convolution, a classifier.

  The defaults are the published network but for `align_corners` and the auxiliary head (256 channels, on the stage
  before the last), which `pspnet_rules.FIELDS` sets where published weights need them.

  Attributes:
    features: channels of the convolution after the concatenation.
    bins: grid sizes.
    bin_features: channels of each level; 0 = the map's, divided by the number of levels.
    kernel_size: of the convolution after the concatenation, 1 in SMP.
    classifier_kernel: k of the k x k classifier, 3 in SMP.
    global_bn: batch normalisation of the 1x1 level too; False: a bias in its place (SMP).
    map_last: the map is the last part of the concatenation, not the first.
    stride: of the backbone's map that is looked at; 0 = the last one. 8 in SMP.
    dropout: rate before the classifier.
  """

  features: int = 512
  bins: tuple[int, ...] = (1, 2, 3, 6)
  bin_features: int = 0
  kernel_size: int = 3
  classifier_kernel: int = 1
  global_bn: bool = True
  map_last: bool = False
  stride: int = 0
  dropout: float = 0.1

  @nn.compact
  def __call__(self, endpoints: Endpoints, train: bool) -> Features:
    """Endpoints -> Features with logits at the map's stride and what the classifier sees as `high`."""
    x = self.low(endpoints, self.stride) if self.stride else endpoints.final
    pooling = PyramidPooling(
      self.unit,
      self.bins,
      self.bin_features,
      self.global_bn,
      self.map_last,
      self.align_corners,
      self.dtype,
      name="pyramid",
    )
    x = self.unit(self.features, self.kernel_size, name="bottleneck")(pooling(x, train), train)
    logits = self.classify(self.drop(x, self.dropout, train), self.classifier_kernel)
    return self.finish(endpoints, logits, x, train)
