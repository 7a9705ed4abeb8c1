"""SqueezeNet 1.1 (Iandola et al. 2016), a small backbone for work on a CPU."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn

from errseg_jax.models.backbones.endpoints import Endpoints
from errseg_jax.models.layers import Conv, param_dtype
from errseg_jax.models.pooling import max_pool

SQUEEZE = {2: 16, 3: 16, 4: 32, 5: 32, 6: 48, 7: 48, 8: 64, 9: 64}
POOL_BEFORE = (2, 4, 6)


class Fire(nn.Module):
  """1x1 squeeze, then 1x1 and 3x3 expand side by side."""

  squeeze: int
  dilation: int = 1
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x):
    expand = 4 * self.squeeze
    x = nn.relu(Conv(self.squeeze, 1, use_bias=True, dtype=self.dtype, name="squeeze1x1")(x))
    narrow = Conv(expand, 1, use_bias=True, dtype=self.dtype, name="expand1x1")(x)
    wide = Conv(expand, 3, 1, self.dilation, True, self.dtype, name="expand3x3")(x)
    return nn.relu(jnp.concatenate([narrow, wide], -1))


class SqueezeNet(nn.Module):
  """SqueezeNet 1.1 without its classifier; no batch normalisation, so a small batch does no harm.

  The published network pads nothing; here conv1 and the pools pad ("SAME") so that each map is exactly
  ceil(n / stride). At even sizes, as multiples of 16 are throughout, the padding is on the far side and every inner
  value is the published one; at odd sizes it is on both sides and shifts the grid by a pixel.

  Attributes:
    output_stride: 8 or 16; at 8 the last pool keeps its size and fire6 to fire9 are dilated.
    dtype: compute type.
  """

  output_stride: int = 16
  dtype: str = "float32"
  # Fields that take few values.
  choices: ClassVar[dict[str, Iterable[int]]] = {"output_stride": (8, 16)}

  @nn.compact
  def __call__(self, x, train: bool):
    """[B, H, W, 3] -> Endpoints with strides (2, 4, 8); `train` changes nothing here."""
    del train
    x = nn.Conv(
      64, (3, 3), (2, 2), "SAME", dtype=self.dtype, param_dtype=param_dtype(self.dtype), name="conv1"
    )(x)
    x = nn.relu(x)
    low, stride, dilation = [], 2, 1
    for i, squeeze in SQUEEZE.items():
      if i in POOL_BEFORE:
        low.append(x)
        step = 2 if stride < self.output_stride else 1
        dilation, stride = dilation * 2 // step, stride * step
        x = max_pool(x, step)
      x = Fire(squeeze, dilation, self.dtype, name=f"fire{i}")(x)
    return Endpoints(low=tuple(low), final=x, strides=(2, 4, 8), output_stride=stride)
