"""VGG-16 (Simonyan and Zisserman 2015), plain, and as DeepLab-LargeFOV (Chen et al. 2015) changed it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar

from flax import linen as nn

from errseg_jax.models.backbones.endpoints import Endpoints
from errseg_jax.models.layers import BatchNorm, Conv
from errseg_jax.models.pooling import max_pool

# Channels and number of the 3x3 convolutions before each pool.
STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
# Channels of fc6 and fc7, kernel and dilation of fc6 at output stride 32.
CLASSIFIERS = {"none": (), "full": (4096, 7, 1), "large_fov": (1024, 3, 3)}


class VGG(nn.Module):
  """VGG-16 without its last layer.

  The published 2x2 pools drop an odd last row; here they pad the far side, which leaves every inner value as it
  was and makes each map ceil(n / stride). LargeFOV has 3x3 pools with symmetric padding throughout.

  Attributes:
    output_stride: 8, 16 or 32; pool4 and pool5 keep the size where they would exceed it, and what follows is
      dilated. LargeFOV is published at 8.
    batch_norm: after every convolution of the five stages.
    classifier: "none": the last map is conv5_3, or pool5 at output stride 32; "full": fc6 (7x7) and fc7 of 4096
      channels as convolutions; "large_fov": 3x3 fc6 at rate 12 (at output stride 8) and 1x1 fc7 of 1024.
    dropout: rate after fc6 and fc7.
    bn_group_size: images per batch-normalisation group, 0 = the whole batch.
    dtype: compute type.
  """

  output_stride: int = 16
  batch_norm: bool = False
  classifier: str = "none"
  dropout: float = 0.5
  bn_group_size: int = 0
  dtype: str = "float32"
  # Fields that take few values.
  choices: ClassVar[dict[str, Iterable[Any]]] = {"output_stride": (8, 16, 32), "classifier": CLASSIFIERS}

  def _pool(self, x, stride: int):
    if self.classifier == "large_fov":
      return max_pool(x, stride, symmetric=True)
    return nn.max_pool(x, (2, 2), (stride, stride), "SAME")

  @nn.compact
  def __call__(self, x, train: bool):
    """[B, H, W, 3] -> Endpoints with strides (2, 4, 8): conv2_2, conv3_3, conv4_3."""
    conv = partial(Conv, use_bias=True, dtype=self.dtype)
    low, stride, dilation = [], 1, 1
    for stage, (features, count) in enumerate(STAGES, start=1):
      for i in range(1, count + 1):
        x = conv(features, 3, dilation=dilation, name=f"conv{stage}_{i}")(x)
        if self.batch_norm:
          bn = BatchNorm(group_size=self.bn_group_size, dtype=self.dtype, name=f"conv{stage}_{i}_bn")
          x = bn(x, train)
        x = nn.relu(x)
      low.append(x)
      step = 2 if stride < self.output_stride else 1
      if stage < 5 or step == 2 or self.classifier != "none":
        x, stride, dilation = self._pool(x, step), stride * step, dilation * 2 // step
    if self.classifier != "none":
      features, kernel, rate = CLASSIFIERS[self.classifier]
      rate = rate * 32 // self.output_stride
      drop = nn.Dropout(self.dropout, deterministic=not train)
      x = drop(nn.relu(conv(features, kernel, dilation=rate, name="fc6")(x)))
      x = drop(nn.relu(conv(features, 1, name="fc7")(x)))
    return Endpoints(low=tuple(low[1:4]), final=x, strides=(2, 4, 8), output_stride=stride)
