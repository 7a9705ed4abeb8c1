"""ResNet (He et al. 2016) with dilation instead of stride where the output stride asks for it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import ClassVar

from flax import linen as nn

from errseg_jax.models.backbones.endpoints import Endpoints
from errseg_jax.models.layers import BatchNorm, Conv, ConvBNReLU, max_pool

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class BasicBlock(nn.Module):
  """Two 3x3 convolutions and a shortcut."""

  features: int
  stride: int = 1
  dilation: int = 1
  bn_group_size: int = 0
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x, train: bool):
    bn = partial(BatchNorm, group_size=self.bn_group_size, dtype=self.dtype)
    conv = partial(Conv, dtype=self.dtype)
    y = conv(self.features, 3, self.stride, self.dilation, name="conv1")(x)
    y = nn.relu(bn(name="bn1")(y, train))
    y = conv(self.features, 3, 1, self.dilation, name="conv2")(y)
    y = bn(name="bn2")(y, train)
    if x.shape[-1] != self.features or self.stride != 1:
      x = conv(self.features, 1, self.stride, name="shortcut")(x)
      x = bn(name="shortcut_bn")(x, train)
    return nn.relu(x + y)


class Bottleneck(nn.Module):
  """1x1, 3x3 (it carries stride and dilation: ResNet v1b), 1x1 to four times the width."""

  features: int
  stride: int = 1
  dilation: int = 1
  bn_group_size: int = 0
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x, train: bool):
    bn = partial(BatchNorm, group_size=self.bn_group_size, dtype=self.dtype)
    conv = partial(Conv, dtype=self.dtype)
    y = nn.relu(bn(name="bn1")(conv(self.features, 1, name="conv1")(x), train))
    y = conv(self.features, 3, self.stride, self.dilation, name="conv2")(y)
    y = nn.relu(bn(name="bn2")(y, train))
    y = bn(name="bn3")(conv(4 * self.features, 1, name="conv3")(y), train)
    if x.shape[-1] != 4 * self.features or self.stride != 1:
      x = conv(4 * self.features, 1, self.stride, name="shortcut")(x)
      x = bn(name="shortcut_bn")(x, train)
    return nn.relu(x + y)


class ResNet(nn.Module):
  """ResNet-18/34/50/101.

  Attributes:
    depth: 18, 34, 50 or 101.
    width: channels of the first stage; the published networks have 64.
    output_stride: 8, 16 or 32.
    deep_stem: three 3x3 convolutions in place of the 7x7 one.
    bn_group_size: images per batch-normalisation group, 0 = the whole batch.
    dtype: compute type.
  """

  depth: int = 50
  width: int = 64
  output_stride: int = 16
  deep_stem: bool = False
  bn_group_size: int = 0
  dtype: str = "float32"
  # Fields that take few values.
  choices: ClassVar[dict[str, Iterable[int]]] = {"depth": BLOCKS, "output_stride": (8, 16, 32)}

  def stem(self, x, train: bool):
    unit = partial(ConvBNReLU, bn_group_size=self.bn_group_size, dtype=self.dtype)
    if not self.deep_stem:
      return unit(self.width, 7, 2, name="stem")(x, train)
    x = unit(self.width, 3, 2, name="stem1")(x, train)
    x = unit(self.width, 3, name="stem2")(x, train)
    return unit(2 * self.width, 3, name="stem3")(x, train)

  @nn.compact
  def __call__(self, x, train: bool):
    """[B, H, W, 3] -> Endpoints with strides (2, 4, 8)."""
    x = self.stem(x, train)
    low, stride, dilation = [x], 4, 1
    x = max_pool(x, 2, symmetric=True)
    block = Bottleneck if self.depth >= 50 else BasicBlock
    for stage, count in enumerate(BLOCKS[self.depth]):
      grow = 2 if stage else 1
      first_dilation = dilation
      if stride * grow > self.output_stride:
        dilation, grow = dilation * grow, 1
      stride *= grow
      for i in range(count):
        x = block(
          self.width * 2**stage,
          grow if i == 0 else 1,
          first_dilation if i == 0 else dilation,
          self.bn_group_size,
          self.dtype,
          name=f"layer{stage + 1}_{i}",
        )(x, train)
      low.append(x)
    return Endpoints(tuple(low[:3]), x, (2, 4, 8), stride, penultimate=low[3])
