"""The detail branch: new labels for the pixels that the frozen network gets wrong (P0, section 3.4)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from errseg_jax.models.layers import GAU, ConvGNReLU, param_dtype, resize
from errseg_jax.structs import Features


class ImageEncoder(nn.Module):
  """Strided convolutions over image and P_sb: low-level features at the strides that a network lacks.

  Attributes:
    strides: powers of two, the maps to return.
    features: channels at stride 2, doubled at 4 and beyond.
  """

  strides: tuple[int, ...]
  features: int = 16
  dtype: str = "float32"

  @nn.compact
  def __call__(self, image, logits) -> dict[int, jax.Array]:
    rgb = (image.astype(self.dtype) - 127.5) / 127.5
    p = jax.nn.softmax(resize(logits, image.shape[1:3])).astype(self.dtype)
    x, maps, stride = jnp.concatenate([rgb, p], -1), {}, 1
    while stride < max(self.strides):
      stride *= 2
      width = self.features * (1 if stride == 2 else 2)
      x = ConvGNReLU(width, 3, 2, dtype=self.dtype, name=f"down{stride}")(x)
      x = ConvGNReLU(width, dtype=self.dtype, name=f"conv{stride}")(x)
      maps[stride] = x
    return {s: maps[s] for s in self.strides}


class DetailBranch(nn.Module):
  """Decoder blocks of a GAU and two 3x3 convolutions at strides 8, 4, 2, then C logits (P0, Fig. 2).

  Attributes:
    num_classes: C.
    features: channels of each block. The finest block costs most: at these a branch takes a fifth of the time of
      a DeepLabv3+ on ResNet-50.
    strides: of the blocks, coarsest first. A stride that the network's `low` features lack is filled from an
      encoder on image and P_sb.
    encoder: "missing": that encoder serves the missing strides only; "all": it joins every stride.
    encoder_features: its channels at stride 2.
    residual: the branch adds a zero-initialised correction to the frozen logits, so it starts at the frozen
      result; False: as published.
    gate: of the GAUs, "sigmoid" or "relu".
    dropout: rate before the classifier.
  """

  num_classes: int
  features: tuple[int, ...] = (64, 48, 24)
  strides: tuple[int, ...] = (8, 4, 2)
  encoder: str = "missing"
  encoder_features: int = 16
  residual: bool = False
  gate: str = "sigmoid"
  dropout: float = 0.0
  dtype: str = "float32"

  @nn.compact
  def __call__(
    self,
    image: jax.Array,
    features: Features,
    semantic: jax.Array,
    train: bool = False,
    resized: bool = True,
  ) -> jax.Array:
    """New class scores.

    Args:
      image: uint8 [B, H, W, 3].
      features: of the frozen network.
      semantic: its logits at the label's size, [B, H, W, C].
      train: dropout on.
      resized: False: as they come out of the finest block, for `at_size`.

    Returns:
      Logits [B, H, W, C].
    """
    low = self.low_level(image, features)
    x = low[self.strides[0]] if features.high is None else features.high.astype(self.dtype)
    for stride, width in zip(self.strides, self.features, strict=True):
      x = GAU(width, self.gate, self.dtype, name=f"gau{stride}")(low[stride], x)
      x = ConvGNReLU(width, dtype=self.dtype, name=f"conv{stride}_1")(x)
      x = ConvGNReLU(width, dtype=self.dtype, name=f"conv{stride}_2")(x)
    x = nn.Dropout(self.dropout, broadcast_dims=(1, 2))(x, deterministic=not train)
    kind = param_dtype(self.dtype)
    start = nn.initializers.zeros if self.residual else nn.initializers.normal(0.01)
    classifier = nn.Conv(
      self.num_classes, (1, 1), kernel_init=start, dtype=kind, param_dtype=kind, name="classifier"
    )
    logits = classifier(x)
    return self.at_size(logits, semantic) if resized else logits

  def at_size(self, coarse: jax.Array, semantic: jax.Array) -> jax.Array:
    """Logits at the label's size, from those of the finest block."""
    logits = resize(coarse, semantic.shape[1:3])
    return semantic + logits if self.residual else logits

  def low_level(self, image: jax.Array, features: Features) -> dict[int, jax.Array]:
    given = dict(zip(features.strides, features.low, strict=True))
    low = {s: given[s].astype(self.dtype) for s in self.strides if s in given}
    wanted = self.strides if self.encoder == "all" else [s for s in self.strides if s not in low]
    if not wanted:
      return low
    encoder = ImageEncoder(tuple(wanted), self.encoder_features, self.dtype, name="encoder")
    for stride, x in encoder(image, features.logits).items():
      if stride in low:
        x = jnp.concatenate([low[stride], resize(x, low[stride].shape[1:3])], -1)
      low[stride] = x
    return low
