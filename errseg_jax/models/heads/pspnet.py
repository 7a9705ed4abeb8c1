"""PSPNet (Zhao et al. 2017): pyramid pooling."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from errseg_jax.models.backbones.endpoints import Endpoints
from errseg_jax.models.heads.head import Head
from errseg_jax.models.layers import Conv, at_least_float32, resize
from errseg_jax.structs import Features


def bin_weights(size: int, bins: int) -> np.ndarray:
  """Mean over each of `bins` spans of `size` pixels, [bins, size].

  Span i runs from floor(i * size / bins) to ceil((i + 1) * size / bins), so spans overlap by a pixel where they
  do not divide the size, and none is empty.
  """
  pixel = np.arange(size)[None]
  first = np.arange(bins)[:, None] * size // bins
  end = -(-(np.arange(bins)[:, None] + 1) * size // bins)
  inside = (pixel >= first) & (pixel < end)
  return inside / inside.sum(1, keepdims=True)


def bin_means(x: jax.Array, bins: int) -> jax.Array:
  """Means over bins x bins parts of a map, [B, h, w, K] -> [B, bins, bins, K] in x's type."""
  wide = at_least_float32(x)
  rows, columns = (jnp.asarray(bin_weights(n, bins), wide.dtype) for n in x.shape[1:3])
  exact = jax.lax.Precision.HIGHEST
  return jnp.einsum("ph,bhwk,qw->bpqk", rows, wide, columns, precision=exact).astype(x.dtype)


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
    levels = [self.level(x, bins, train) for bins in self.bins]
    x = jnp.concatenate([*levels, x] if self.map_last else [x, *levels], -1)
    x = self.unit(self.features, self.kernel_size, name="bottleneck")(x, train)
    logits = self.classify(self.drop(x, self.dropout, train), self.classifier_kernel)
    return self.finish(endpoints, logits, x, train)

  def level(self, x: jax.Array, bins: int, train: bool) -> jax.Array:
    """One level of the pyramid at the map's size."""
    features = self.bin_features or x.shape[-1] // len(self.bins)
    y = bin_means(x, bins)
    if bins == 1 and not self.global_bn:
      y = nn.relu(Conv(features, 1, use_bias=True, dtype=self.dtype, name="bin1")(y))
    else:
      y = self.unit(features, 1, name=f"bin{bins}")(y, train)
    return resize(y, x.shape[1:3], self.align_corners)
