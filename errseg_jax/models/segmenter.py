"""The semantic branch: preprocessing, backbone, head."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from errseg_jax.models.layers import param_dtype
from errseg_jax.structs import Features


class Segmenter(nn.Module):
  """uint8 image -> Features.

  Attributes:
    backbone: a module of `models.backbones`.
    head: a module of `models.heads`.
    mean: per channel, 0..255, in RGB order; also the colour that images are padded with.
    std: per channel, 0..255.
    channels: "rgb" or "bgr", the order the backbone's weights expect.
  """

  backbone: nn.Module
  head: nn.Module
  mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
  std: tuple[float, float, float] = (58.395, 57.12, 57.375)
  channels: str = "rgb"
  dtype: str = "float32"

  @nn.compact
  def __call__(self, image: jax.Array, train: bool = False) -> Features:
    """[B, H, W, 3] uint8 RGB -> Features."""
    kind = param_dtype(self.dtype)
    mean, std = (jnp.array(v, kind).reshape(1, 1, 1, 3) for v in (self.mean, self.std))
    x = (image.astype(kind) - mean) / std
    x = x[..., ::-1] if self.channels == "bgr" else x
    return self.head(self.backbone(x.astype(self.dtype), train), train)
