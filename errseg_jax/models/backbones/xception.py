"""Xception-41/65/71 as TensorFlow's DeepLab changed it (Chollet 2017; Chen et al. 2018).

Its separable convolutions have batch normalisation between depthwise and pointwise; they stride themselves, where
Chollet's network pools.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar

from flax import linen as nn

from errseg_jax.errors import UserError
from errseg_jax.models.backbones.endpoints import Endpoints
from errseg_jax.models.layers import BatchNorm, Conv, DepthwiseConv

# Channels and stride of the blocks of the entry flow.
ENTRY = ((128, 2), (256, 2), (728, 2))
ENTRIES = {41: ENTRY, 65: ENTRY, 71: ((128, 2), (256, 1), (256, 2), (728, 1), (728, 2))}
MIDDLE = {41: 8, 65: 16, 71: 16}


class XceptionModule(nn.Module):
  """Three separable convolutions, the last with the stride, and what they are added to.

  Attributes:
    features: channels of the three.
    skip: "conv": 1x1 convolution of the input; "sum": the input; "none".
    stride: of the third.
    rates: dilations of the three.
    activate_inside: ReLU after each batch normalisation, in place of one before each separable convolution.
  """

  features: tuple[int, int, int]
  skip: str
  stride: int = 1
  rates: tuple[int, int, int] = (1, 1, 1)
  activate_inside: bool = False
  bn_epsilon: float = 1e-3
  bn_group_size: int = 0
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x, train: bool):
    """[B, h, w, C] -> (output, map after the second convolution: the last before the stride)."""
    bn = partial(BatchNorm, epsilon=self.bn_epsilon, group_size=self.bn_group_size, dtype=self.dtype)
    before, inside = (lambda y: y, nn.relu) if self.activate_inside else (nn.relu, lambda y: y)
    y, maps = x, []
    for i, (features, rate) in enumerate(zip(self.features, self.rates, strict=True), start=1):
      stride = self.stride if i == 3 else 1
      y = DepthwiseConv(3, stride, rate, self.dtype, name=f"depthwise{i}")(before(y))
      y = inside(bn(name=f"depthwise{i}_bn")(y, train))
      y = Conv(features, 1, dtype=self.dtype, name=f"pointwise{i}")(y)
      y = inside(bn(name=f"pointwise{i}_bn")(y, train))
      maps.append(y)
    if self.skip == "conv":
      x = Conv(self.features[-1], 1, self.stride, dtype=self.dtype, name="shortcut")(x)
      x = bn(name="shortcut_bn")(x, train)
    return (y if self.skip == "none" else x + y), maps[1]


class Xception(nn.Module):
  """Xception-41, 65 or 71 in TensorFlow's layout.

  `low` are the second separable convolutions of the modules that stride, as the published decoder takes them:
  normalised, before the ReLU.

  Attributes:
    depth: 41, 65 or 71.
    multiplier: of the channels; the published networks have 1.
    output_stride: 8, 16 or 32. A module whose stride became dilation keeps the dilation before it.
    multi_grid: factors on the dilations of the last module's three convolutions.
    bn_epsilon: added to the variance.
    bn_group_size: images per batch-normalisation group, 0 = the whole batch.
    dtype: compute type.
  """

  depth: int = 65
  multiplier: float = 1.0
  output_stride: int = 16
  multi_grid: tuple[int, ...] = (1, 1, 1)
  bn_epsilon: float = 1e-3
  bn_group_size: int = 0
  dtype: str = "float32"
  # Fields that take few values.
  choices: ClassVar[dict[str, Iterable[Any]]] = {"depth": ENTRIES, "output_stride": (8, 16, 32)}

  def _modules(self) -> list[tuple[str, tuple[int, int, int], str, int]]:
    """(name, channels, skip, stride) of every module."""
    entry = [
      (f"entry{i}_1", (width,) * 3, "conv", stride)
      for i, (width, stride) in enumerate(ENTRIES[self.depth], start=1)
    ]
    middle = [(f"middle1_{i + 1}", (728,) * 3, "sum", 1) for i in range(MIDDLE[self.depth])]
    leave = [("exit1_1", (728, 1024, 1024), "conv", 2), ("exit2_1", (1536, 1536, 2048), "none", 1)]
    return entry + middle + leave

  @nn.compact
  def __call__(self, x, train: bool):
    """[B, H, W, 3] -> Endpoints with strides (2, 4, 8).

    Raises:
      UserError: `multi_grid` has not three numbers.
    """
    if len(self.multi_grid) != 3:
      raise UserError(f"multi_grid={self.multi_grid} needs 3 numbers, one per convolution of the last module")
    norm = (self.bn_epsilon, self.bn_group_size, self.dtype)

    def width(channels):
      return max(1, round(channels * self.multiplier))

    for name, channels, stride in (("conv1_1", 32, 2), ("conv1_2", 64, 1)):
      x = Conv(width(channels), 3, stride, dtype=self.dtype, name=name)(x)
      x = nn.relu(BatchNorm(0.9, *norm, name=f"{name}_bn")(x, train))
    low, current, rate = [], 2, 1
    for name, channels, skip, stride in self._modules():
      last = name == "exit2_1"
      kept = 1 if current == self.output_stride else stride
      rates = tuple(rate * factor for factor in (self.multi_grid if last else (1, 1, 1)))
      module = XceptionModule(tuple(map(width, channels)), skip, kept, rates, last, *norm, name=name)
      x, inner = module(x, train)
      if stride > 1 and name.startswith("entry"):
        low.append(inner)
      current, rate = current * kept, rate * stride // kept
    return Endpoints(low=tuple(low), final=x, strides=(2, 4, 8), output_stride=current)
