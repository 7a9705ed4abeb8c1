"""Pyramid pooling (Zhao et al. 2017): means over grids of several sizes beside the map they are taken of."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from errseg_jax.errors import UserError
from errseg_jax.models.layers import Conv, ConvBNReLU, at_least_float32
from errseg_jax.models.resize import resize


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


class PyramidPooling(nn.Module):
  """Grid means, each projected and resized to the map, concatenated with it.

  Attributes:
    unit: the projection's convolution with its normalisation.
    bins: grid sizes.
    bin_features: channels of each level; 0 = the map's, divided by the number of levels.
    global_bn: batch normalisation of the 1x1 level too; False: a bias in its place.
    map_last: the map is the last part of the concatenation, not the first.
    align_corners: of the levels' resize.
  """

  unit: partial[ConvBNReLU]
  bins: tuple[int, ...] = (1, 2, 3, 6)
  bin_features: int = 0
  global_bn: bool = True
  map_last: bool = False
  align_corners: bool = False
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """[B, h, w, K] -> [B, h, w, K + the levels' channels]."""
    levels = [self.level(x, bins, train) for bins in self.bins]
    return jnp.concatenate([*levels, x] if self.map_last else [x, *levels], -1)

  def level(self, x: jax.Array, bins: int, train: bool) -> jax.Array:
    """One level of the pyramid at the map's size.

    Raises:
      UserError: the map has fewer channels than the pyramid levels.
    """
    features = self.bin_features or x.shape[-1] // len(self.bins)
    if not features:
      raise UserError(
        f"a pyramid of {len(self.bins)} levels wants a map of as many channels, not {x.shape[-1]}"
      )
    y = bin_means(x, bins)
    if bins == 1 and not self.global_bn:
      y = nn.relu(Conv(features, 1, use_bias=True, dtype=self.dtype, name="bin1")(y))
    else:
      y = self.unit(features, 1, name=f"bin{bins}")(y, train)
    return resize(y, x.shape[1:3], self.align_corners)
