"""Building blocks shared by backbones, heads and branches. NHWC throughout.

`dtype` is the compute type ("float32", "bfloat16"; "float64" in tests). Parameters and batch statistics stay
float32, or float64 with it.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from errseg_jax.models.convolution import near_conv, tile_conv
from errseg_jax.models.resize import resize


def param_dtype(dtype: str) -> jnp.dtype:
  """Type of parameters and statistics under a compute type: float32, or wider where the compute is wider."""
  return jnp.promote_types(dtype, jnp.float32)


def at_least_float32(x: jax.Array) -> jax.Array:
  """Softmaxes, losses and statistics never run in half precision; float64 stays float64."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def pair(n: int | tuple[int, int]) -> tuple[int, int]:
  """(vertical, horizontal) of a number that may hold for both."""
  return (n, n) if isinstance(n, int) else n


def depthwise_conv(
  x: jax.Array, kernel: jax.Array, stride: int = 1, dilation: int | tuple[int, int] = 1
) -> jax.Array:
  """Depthwise convolution with symmetric padding, [B, H, W, C] with kernel [k, k, 1, C].

  XLA's grouped convolution on CPU is more than ten times slower than k * k shifted multiply-adds, its
  gradient more so; on accelerators the native operation wins.
  """
  k, (down, across) = kernel.shape[0], pair(dilation)
  pads = [(rate * (k - 1) // 2,) * 2 for rate in (down, across)]

  def native(x, kernel):
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (stride, stride),
      pads,
      rhs_dilation=(down, across),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=x.shape[-1],
    )

  def shifted(x, kernel):
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    taps = [
      x[:, i * down : i * down + height, j * across : j * across + width] * kernel[i : i + 1, j : j + 1]
      for i in range(k)
      for j in range(k)
    ]
    return sum(taps[1:], taps[0])[:, ::stride, ::stride]

  return jax.lax.platform_dependent(x, kernel, cpu=shifted, default=native)


class DepthwiseConv(nn.Module):
  """Depthwise k x k convolution without bias; the kernel is [k, k, 1, C]."""

  kernel_size: int = 3
  stride: int = 1
  dilation: int | tuple[int, int] = 1
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x):
    shape = (self.kernel_size, self.kernel_size, 1, x.shape[-1])
    kernel = self.param(
      "kernel", nn.initializers.lecun_normal(in_axis=(0, 1)), shape, param_dtype(self.dtype)
    )
    return depthwise_conv(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.dilation)


class Conv(nn.Module):
  """k x k convolution with symmetric padding dilation * (k - 1) / 2, so stride s maps size n to ceil(n / s).

  Without padding (`padded=False`, stride 1) the input brings that margin itself: a tile of a map.
  """

  features: int
  kernel_size: int = 3
  stride: int = 1
  dilation: int | tuple[int, int] = 1
  use_bias: bool = False
  dtype: str = "float32"
  padded: bool = True

  @nn.compact
  def __call__(self, x):
    rates = pair(self.dilation)
    return nn.Conv(
      self.features,
      (self.kernel_size,) * 2,
      (self.stride,) * 2,
      padding=[(self.padded * rate * (self.kernel_size - 1) // 2,) * 2 for rate in rates],
      kernel_dilation=rates,
      use_bias=self.use_bias,
      kernel_init=nn.initializers.he_normal(),
      dtype=self.dtype,
      param_dtype=param_dtype(self.dtype),
      conv_general_dilated=near_conv if self.padded else tile_conv,
      name="conv",
    )(x)


class BatchNorm(nn.Module):
  """Batch normalisation over the global batch, or over groups of it.

  Under `jit` with a sharded batch the statistics are those of the whole batch (synchronized BN). With
  `group_size` g they are taken over each run of g images, as training on devices of g images each would.

  Attributes:
    momentum: share of the old running statistics kept at a step.
    epsilon: added to the variance.
    group_size: images per group; 0 = the whole batch. Must divide the batch.
  """

  momentum: float = 0.9
  epsilon: float = 1e-5
  group_size: int = 0
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x, train: bool):
    kind, features = param_dtype(self.dtype), x.shape[-1]
    scale = self.param("scale", nn.initializers.ones, (features,), kind)
    bias = self.param("bias", nn.initializers.zeros, (features,), kind)
    mean = self.variable("batch_stats", "mean", jnp.zeros, (features,), kind)
    var = self.variable("batch_stats", "var", jnp.ones, (features,), kind)
    if not train:
      gain = scale * jax.lax.rsqrt(var.value + self.epsilon)
      offset = bias - mean.value * gain
      return (x * gain.reshape(1, 1, 1, -1) + offset.reshape(1, 1, 1, -1)).astype(self.dtype)
    groups = x.shape[0] // (self.group_size or x.shape[0])
    grouped = at_least_float32(x).reshape(groups, -1, *x.shape[1:])
    group_mean = grouped.mean((1, 2, 3), keepdims=True)
    group_var = jnp.square(grouped - group_mean).mean((1, 2, 3), keepdims=True)
    if not self.is_initializing():
      mean.value = self.momentum * mean.value + (1 - self.momentum) * group_mean.mean((0, 1, 2, 3))
      var.value = self.momentum * var.value + (1 - self.momentum) * group_var.mean((0, 1, 2, 3))
    normal = ((grouped - group_mean) * jax.lax.rsqrt(group_var + self.epsilon)).reshape(x.shape)
    return (normal * scale.reshape(1, 1, 1, -1) + bias.reshape(1, 1, 1, -1)).astype(self.dtype)


class GroupNorm(nn.Module):
  """GroupNorm with 32 groups, fewer where the channels are fewer or do not divide (P0, section 4).

  Moments are taken per channel first, then over a group's channels: on CPU several times faster than one
  reduction over a split channel axis.
  """

  epsilon: float = 1e-5
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x, weights=None):
    """[B, h, w, C], each sample by itself; with weights [B, h, w, 1] all of B are parts of one map."""
    features, kind = x.shape[-1], param_dtype(self.dtype)
    scale = self.param("scale", nn.initializers.ones, (features,), kind)
    bias = self.param("bias", nn.initializers.zeros, (features,), kind)
    groups = math.gcd(32, features)

    def over_map(x):  # -> [B, C], or [1, C]
      if weights is None:
        return x.mean((1, 2))
      return (x * weights).sum((0, 1, 2))[None] / weights.sum()

    def over_group(moment):  # [B, C] -> the group's mean, back at [B, C]
      grouped = moment.reshape(-1, groups, features // groups)
      return jnp.broadcast_to(grouped.mean(-1, keepdims=True), grouped.shape).reshape(moment.shape)

    wide = at_least_float32(x)
    mean = over_group(over_map(wide))
    var = over_group(over_map(jnp.square(wide))) - jnp.square(mean)
    gain = jax.lax.rsqrt(jnp.maximum(var, 0.0) + self.epsilon) * scale[None]
    shift = bias[None] - mean * gain
    return (wide * gain[:, None, None] + shift[:, None, None]).astype(self.dtype)


class PixelGroupNorm(nn.Module):
  """GroupNorm whose statistics are of one pixel, over the channels of a group: no place depends on another's values.

  Groups are of at least PIXEL_CHANNELS channels, as many as the channels and 32 divide into. Moments come as products
  with a matrix: on CPU several times faster than reductions over a split channel axis.
  """

  epsilon: float = 1e-5
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x, weights=None):
    """[B, h, w, C]; weights of pixels change nothing."""
    del weights
    features, kind = x.shape[-1], param_dtype(self.dtype)
    scale = self.param("scale", nn.initializers.ones, (features,), kind)
    bias = self.param("bias", nn.initializers.zeros, (features,), kind)
    groups = math.gcd(32, features)
    while groups > 1 and features // groups < PIXEL_CHANNELS:
      groups //= 2
    group = jnp.arange(features) // (features // groups)
    wide = at_least_float32(x)
    average = (group[:, None] == group[None]).astype(wide.dtype) * groups / features
    mean = jnp.matmul(wide, average, precision="highest")
    var = jnp.matmul(jnp.square(wide), average, precision="highest") - jnp.square(mean)
    normal = (wide - mean) * jax.lax.rsqrt(jnp.maximum(var, 0.0) + self.epsilon)
    return (normal * scale.reshape(1, 1, 1, -1) + bias.reshape(1, 1, 1, -1)).astype(self.dtype)


PIXEL_CHANNELS = 8
NORMS = {"group": GroupNorm, "pixel_group": PixelGroupNorm}


class ConvBNReLU(nn.Module):
  """Convolution, batch normalisation, ReLU.

  Attributes:
    features: output channels.
    kernel_size: k of k x k.
    stride: of the convolution.
    dilation: one number, or (vertical, horizontal).
    separable: the convolution is split into depthwise and pointwise.
    separable_bn: batch normalisation and ReLU between the two.
    bn_epsilon: added to the variance.
    bn_group_size: images per batch-normalisation group, 0 = the whole batch.
    padded: of the convolution that is not split (`Conv`).
  """

  features: int
  kernel_size: int = 3
  stride: int = 1
  dilation: int | tuple[int, int] = 1
  separable: bool = False
  bn_group_size: int = 0
  bn_epsilon: float = 1e-5
  separable_bn: bool = True
  padded: bool = True
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x, train: bool):
    bn = functools.partial(
      BatchNorm, epsilon=self.bn_epsilon, group_size=self.bn_group_size, dtype=self.dtype
    )
    if self.separable:
      x = DepthwiseConv(self.kernel_size, self.stride, self.dilation, self.dtype, name="depthwise")(x)
      if self.separable_bn:
        x = nn.relu(bn(name="depthwise_bn")(x, train))
      x = Conv(self.features, 1, dtype=self.dtype, name="pointwise")(x)
    else:
      size = (self.kernel_size, self.stride, self.dilation)
      x = Conv(self.features, *size, dtype=self.dtype, padded=self.padded, name="conv")(x)
    return nn.relu(bn(name="bn")(x, train))


class ConvGNReLU(nn.Module):
  """Convolution, GroupNorm, ReLU: the unit of the branches and subnets.

  Attributes:
    features: output channels.
    kernel_size: k of k x k.
    stride: of the convolution.
    dilation: of the convolution.
    norm: of NORMS.
  """

  features: int
  kernel_size: int = 3
  stride: int = 1
  dilation: int = 1
  dtype: str = "float32"
  norm: str = "group"

  @nn.compact
  def __call__(self, x, patches=None, margin=0):
    """A map; or `patches` of one with a margin that becomes `margin`, one cell less."""
    size = (self.kernel_size, self.stride, self.dilation)
    conv = Conv(self.features, *size, dtype=self.dtype, padded=patches is None, name="conv")
    norm = NORMS[self.norm](dtype=self.dtype, name="gn")
    if patches is None:
      return nn.relu(norm(conv(x)))
    # Beyond the map lies the zero padding of the next convolution.
    return nn.relu(norm(conv(x), patches.weights(margin))) * patches.inside(margin)


GATES = {"sigmoid": nn.sigmoid, "relu": nn.relu}


class GAU(nn.Module):
  """Global Attention Upsample (Pyramid Attention Network; P0, Fig. 2).

  low -> 3x3 conv; high -> global average pool -> 1x1 conv -> gate; out = upsample(1x1 conv(high)) + low * gate.

  Attributes:
    features: output channels.
    gate: "sigmoid" or "relu"; the paper does not say which.
    norm: of NORMS.
  """

  features: int
  gate: str = "sigmoid"
  dtype: str = "float32"
  norm: str = "group"

  @nn.compact
  def __call__(self, low, high, patches=None, margin=0):
    """[B, h, w, Cl], [B, h', w', Ch] -> [B, h, w, features].

    With `patches` of a map: low are those with a margin that becomes `margin`, high is whole.
    """
    low = ConvGNReLU(self.features, 3, norm=self.norm, dtype=self.dtype, name="low")(low, patches, margin)
    pooled = at_least_float32(high).mean((1, 2), keepdims=True)
    gate = GATES[self.gate](Conv(self.features, 1, use_bias=True, dtype=self.dtype, name="gate")(pooled))
    high = Conv(self.features, 1, use_bias=True, dtype=self.dtype, name="high")(high)
    if patches is None:
      return resize(high, low.shape[1:3]) + low * gate
    return patches.cut(resize(high, patches.size), margin) + low * gate
