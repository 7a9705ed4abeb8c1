"""Guidance by image classification (P3; Shen and Zeng 2018): which classes an image shows, said to every pixel."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from errseg_jax.models.layers import Conv, at_least_float32, param_dtype
from errseg_jax.structs import Features


def grid_max(x: jax.Array, cells: int) -> jax.Array:
  """Maxima over cells x cells parts of a map, [B, h, w, K] -> [B, cells, cells, K].

  Part i runs from floor(i * size / cells) to ceil((i + 1) * size / cells): no pixel is left out, and parts of a map
  that is smaller than the grid repeat its pixels.
  """
  for axis in (1, 2):
    n = x.shape[axis]
    spans = [(i * n // cells, -(-(i + 1) * n // cells)) for i in range(cells)]
    parts = [jax.lax.slice_in_dim(x, first, end, axis=axis).max(axis) for first, end in spans]
    x = jnp.stack(parts, axis)
  return x


class Guidance(nn.Module):
  """Global class scores of an image: a max-pooled grid of the network's features, two fully connected layers.

  Its last layer starts at zero, so a network is guided nowhere before it is trained.

  Attributes:
    num_classes: C.
    features: channels that a map of more is reduced to before the grid.
    hidden: width of both fully connected layers.
    cells: the grid's side.
    dropout: rate after each fully connected layer.
  """

  num_classes: int
  features: int = 512
  hidden: int = 4096
  cells: int = 7
  dropout: float = 0.5
  dtype: str = "float32"

  @nn.compact
  def __call__(self, features: Features, train: bool) -> jax.Array:
    """Features -> float32 [B, C], logits of each class's presence, to be added to every local score.

    It sees `high`, or the logits of a network that hands out none.
    """
    x = features.logits if features.high is None else features.high
    if x.shape[-1] > self.features:
      x = Conv(self.features, 1, use_bias=True, dtype=self.dtype, name="reduce")(x)
    x = grid_max(x, self.cells)
    x = x.reshape(len(x), -1)
    for name in ("fc1", "fc2"):
      x = nn.relu(self.dense(self.hidden, nn.initializers.he_normal(), name)(x))
      x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return at_least_float32(self.dense(self.num_classes, nn.initializers.zeros, "classes")(x))

  def dense(self, width: int, init: nn.initializers.Initializer, name: str) -> nn.Dense:
    """A fully connected layer."""
    return nn.Dense(width, kernel_init=init, dtype=self.dtype, param_dtype=param_dtype(self.dtype), name=name)
