"""Wide ResNet-38 (Wu et al. 2016): few, wide, pre-activated residual blocks."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar

import jax
from flax import linen as nn

from errseg_jax.models.backbones.endpoints import Endpoints
from errseg_jax.models.layers import BatchNorm, Conv
from errseg_jax.models.pooling import max_pool

# Blocks, channels of their convolutions, dropout before the last of them; levels 2 to 7.
LEVELS = (
  (3, (128, 128), 0.0),
  (3, (256, 256), 0.0),
  (6, (512, 512), 0.0),
  (3, (512, 1024), 0.0),
  (1, (512, 1024, 2048), 0.3),
  (1, (1024, 2048, 4096), 0.5),
)
KERNELS = {2: (3, 3), 3: (1, 3, 1)}
# Levels that begin with a max pool of stride 2 in place of a strided convolution.
POOLED = {"a1": (), "a2": (2, 3)}


class PreActivatedBlock(nn.Module):
  """Batch normalisation, ReLU, convolution, two or three times; a 1x1 shortcut after the first ReLU if need be.

  Attributes:
    features: channels of the convolutions: two of 3x3, or three of 1x1, 3x3, 1x1.
    stride: of the first.
    dilations: of the first, and of the others.
    dropout: rate before the last.
  """

  features: tuple[int, ...]
  stride: int = 1
  dilations: tuple[int, int] = (1, 1)
  dropout: float = 0.0
  bn_epsilon: float = 1.001e-5
  bn_group_size: int = 0
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x, train: bool):
    bn = partial(BatchNorm, epsilon=self.bn_epsilon, group_size=self.bn_group_size, dtype=self.dtype)
    y = nn.relu(bn(name="bn1")(x, train))
    if x.shape[-1] != self.features[-1] or self.stride != 1:
      x = Conv(self.features[-1], 1, self.stride, dtype=self.dtype, name="shortcut")(y)
    last = len(self.features) - 1
    for i, (features, kernel) in enumerate(zip(self.features, KERNELS[last + 1], strict=True)):
      if i:
        y = nn.relu(bn(name=f"bn{i + 1}")(y, train))
      if i == last and self.dropout:
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
      place = (1, self.dilations[1]) if i else (self.stride, self.dilations[0])
      y = Conv(features, kernel, *place, dtype=self.dtype, name=f"conv{i + 1}")(y)
    return x + y


class WideResNet(nn.Module):
  """Wide ResNet-38, model A1 (strided convolutions) or A2 (max pools before levels 2 and 3).

  Attributes:
    variant: "a1" (ademxapp) or "a2" (InPlace-ABN's and later networks'). Where a stride became dilation, the first
      convolution of A1's level has the dilation of the level before, of A2's that of its own.
    multiplier: of the channels; the published networks have 1.
    output_stride: 8, 16 or 32; published at 8.
    bn_epsilon: added to the variance.
    bn_group_size: images per batch-normalisation group, 0 = the whole batch.
    dtype: compute type.
  """

  variant: str = "a1"
  multiplier: float = 1.0
  output_stride: int = 8
  bn_epsilon: float = 1.001e-5
  bn_group_size: int = 0
  dtype: str = "float32"
  # Fields that take few values.
  choices: ClassVar[dict[str, Iterable[Any]]] = {"variant": POOLED, "output_stride": (8, 16, 32)}

  @nn.compact
  def __call__(self, x, train: bool):
    """[B, H, W, 3] -> Endpoints with strides (2, 4, 8): levels 2, 3, 4 as they leave their last block."""
    bn = partial(BatchNorm, epsilon=self.bn_epsilon, group_size=self.bn_group_size, dtype=self.dtype)
    unit = partial(
      PreActivatedBlock, bn_epsilon=self.bn_epsilon, bn_group_size=self.bn_group_size, dtype=self.dtype
    )

    def width(channels):
      return max(1, round(channels * self.multiplier))

    x = Conv(width(64), 3, dtype=self.dtype, name="conv1")(x)
    low: list[jax.Array] = []
    stride, dilation = 1, 1
    for level, (count, channels, dropout) in enumerate(LEVELS, start=2):
      grow, previous = (2 if level < 7 else 1), dilation
      if stride * grow > self.output_stride:
        dilation, grow = dilation * grow, 1
      stride *= grow
      if level in POOLED[self.variant]:
        x, grow = max_pool(x, 2, symmetric=True), 1
      first = previous if self.variant == "a1" else dilation
      for i in range(count):
        place = (1, (dilation, dilation)) if i else (grow, (first, dilation))
        block = unit(tuple(map(width, channels)), *place, dropout, name=f"level{level}_{i}")
        x = block(x, train)
      low.append(x)
    x = nn.relu(bn(name="bn")(x, train))
    return Endpoints(low=tuple(low[:3]), final=x, strides=(2, 4, 8), output_stride=stride)
