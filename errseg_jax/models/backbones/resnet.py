"""ResNet (He et al. 2016) with dilation instead of stride where the output stride asks for it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar

from flax import linen as nn

from errseg_jax.errors import UserError
from errseg_jax.models.backbones.endpoints import Endpoints
from errseg_jax.models.layers import BatchNorm, Conv, ConvBNReLU
from errseg_jax.models.pooling import max_pool

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# Widths of the three 3x3 convolutions of a deep stem, in halves of the network's width.
STEMS = {"plain": (), "semseg": (2, 2, 4), "mmseg": (1, 1, 2)}


def shortcut(block: BasicBlock | Bottleneck, x, features: int, train: bool):
  """x as the block's output is: itself, or a 1x1 convolution that strides, or (v1d) one after 2x2 average pooling."""
  stride = block.stride
  if x.shape[-1] == features and stride == 1:
    return x
  if block.average_shortcut and stride > 1:
    x = nn.avg_pool(x, (stride,) * 2, (stride,) * 2, "SAME", count_include_pad=False)
    stride = 1
  x = Conv(features, 1, stride, dtype=block.dtype, name="shortcut")(x)
  return BatchNorm(group_size=block.bn_group_size, dtype=block.dtype, name="shortcut_bn")(x, train)


class BasicBlock(nn.Module):
  """Two 3x3 convolutions and a shortcut.

  Attributes:
    features: output channels.
    stride: of the first convolution.
    dilations: of the first and the second convolution.
    average_shortcut: see `shortcut`.
  """

  features: int
  stride: int = 1
  dilations: tuple[int, int] = (1, 1)
  average_shortcut: bool = False
  bn_group_size: int = 0
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x, train: bool):
    bn = partial(BatchNorm, group_size=self.bn_group_size, dtype=self.dtype)
    conv = partial(Conv, dtype=self.dtype)
    first, second = self.dilations
    y = conv(self.features, 3, self.stride, first, name="conv1")(x)
    y = nn.relu(bn(name="bn1")(y, train))
    y = conv(self.features, 3, 1, second, name="conv2")(y)
    y = bn(name="bn2")(y, train)
    return nn.relu(shortcut(self, x, self.features, train) + y)


class Bottleneck(nn.Module):
  """1x1, 3x3 (it carries stride and dilation: ResNet v1b), 1x1 to four times the width.

  Fields as `BasicBlock`'s; of `dilations` the first counts.
  """

  features: int
  stride: int = 1
  dilations: tuple[int, int] = (1, 1)
  average_shortcut: bool = False
  bn_group_size: int = 0
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x, train: bool):
    bn = partial(BatchNorm, group_size=self.bn_group_size, dtype=self.dtype)
    conv = partial(Conv, dtype=self.dtype)
    y = nn.relu(bn(name="bn1")(conv(self.features, 1, name="conv1")(x), train))
    y = conv(self.features, 3, self.stride, self.dilations[0], name="conv2")(y)
    y = nn.relu(bn(name="bn2")(y, train))
    y = bn(name="bn3")(conv(4 * self.features, 1, name="conv3")(y), train)
    return nn.relu(shortcut(self, x, 4 * self.features, train) + y)


class ResNet(nn.Module):
  """ResNet-18/34/50/101/152: v1b; v1c with a deep stem; v1d with `average_shortcut` too.

  Attributes:
    depth: 18, 34, 50, 101 or 152.
    width: channels of the first stage; the published networks have 64.
    output_stride: 8, 16 or 32.
    stem: "plain" 7x7; three 3x3 convolutions as "semseg" (64, 64, 128 channels) or "mmseg" (32, 32, 64).
    first_dilation: the first 3x3 convolution of a stage whose stride became dilation has the dilation of the
      stage before ("previous": the same numbers at the strided pixels; torchvision, timm, mmsegmentation), or
      its own stage's ("stage": semseg, segmentation-models-pytorch).
    dilate_conv2: False leaves the second convolution of basic blocks undilated, as mmsegmentation does.
    multi_grid: factors on the dilations of the last stage's blocks, (1, 2, 4) in DeepLabv3; empty = none.
    average_shortcut: shortcuts pool where they stride.
    bn_group_size: images per batch-normalisation group, 0 = the whole batch.
    dtype: compute type.
  """

  depth: int = 50
  width: int = 64
  output_stride: int = 16
  stem: str = "plain"
  first_dilation: str = "previous"
  dilate_conv2: bool = True
  multi_grid: tuple[int, ...] = ()
  average_shortcut: bool = False
  bn_group_size: int = 0
  dtype: str = "float32"
  # Fields that take few values.
  choices: ClassVar[dict[str, Iterable[Any]]] = {
    "depth": BLOCKS,
    "output_stride": (8, 16, 32),
    "stem": STEMS,
    "first_dilation": ("previous", "stage"),
  }

  def _stem(self, x, train: bool):
    unit = partial(ConvBNReLU, bn_group_size=self.bn_group_size, dtype=self.dtype)
    if self.stem == "plain":
      return unit(self.width, 7, 2, name="stem")(x, train)
    for i, halves in enumerate(STEMS[self.stem]):
      x = unit(self.width * halves // 2, 3, 1 if i else 2, name=f"stem{i + 1}")(x, train)
    return x

  def _dilations(self, count: int, previous: int, dilation: int, last: bool) -> list[tuple[int, int]]:
    """Dilations of the two 3x3 convolutions of each block of a stage."""
    grid = self.multi_grid if last and self.multi_grid else (1,) * count
    if len(grid) != count:
      raise UserError(f"multi_grid={grid} needs {count} numbers, one per block of the last stage")
    first = previous if self.first_dilation == "previous" else dilation
    convs1 = [(dilation if i else first) * factor for i, factor in enumerate(grid)]
    return [
      (a, dilation * factor if self.dilate_conv2 else 1) for a, factor in zip(convs1, grid, strict=True)
    ]

  @nn.compact
  def __call__(self, x, train: bool):
    """[B, H, W, 3] -> Endpoints with strides (2, 4, 8).

    Raises:
      UserError: `multi_grid` has not one number per block of the last stage.
    """
    x = self._stem(x, train)
    low, stride, dilation = [x], 4, 1
    x = max_pool(x, 2, symmetric=True)
    block = Bottleneck if self.depth >= 50 else BasicBlock
    for stage, count in enumerate(BLOCKS[self.depth]):
      grow, previous = 2 if stage else 1, dilation
      if stride * grow > self.output_stride:
        dilation, grow = dilation * grow, 1
      stride *= grow
      for i, dilations in enumerate(self._dilations(count, previous, dilation, stage == 3)):
        x = block(
          self.width * 2**stage,
          1 if i else grow,
          dilations,
          self.average_shortcut,
          self.bn_group_size,
          self.dtype,
          name=f"layer{stage + 1}_{i}",
        )(x, train)
      low.append(x)
    return Endpoints(tuple(low[:3]), x, (2, 4, 8), stride, penultimate=low[3])
