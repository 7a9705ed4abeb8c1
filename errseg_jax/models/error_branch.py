"""The error branch: P(the frozen network is wrong) per pixel (P0, section 3.3)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, Integer

from errseg_jax.models.layers import GAU, ConvGNReLU, param_dtype
from errseg_jax.models.resize import resize
from errseg_jax.structs import Features

PRIORS = ("none", "msp", "detail")


def max_probability_logit(logits: Float[Array, "*pixels C"]) -> Float[Array, "*pixels"]:
  """logit(1 - max softmax), [..., C] -> [...], as logsumexp(other logits) - max logit; clipped to +-20."""
  top = logits.max(-1, keepdims=True)
  others = jnp.where(jax.nn.one_hot(logits.argmax(-1), logits.shape[-1], dtype=bool), -jnp.inf, logits)
  return jnp.clip(jax.nn.logsumexp(others, -1) - top[..., 0], -20.0, 20.0)


def disbelief_logit(
  detail_logits: Float[Array, "*pixels C"], labels: Integer[Array, "*pixels"]
) -> Float[Array, "*pixels"]:
  """logit(1 - P_db[label]): how little the detail branch believes a label map; clipped to +-20.

  Args:
    detail_logits: [..., C].
    labels: integers [...], here the frozen network's labels.
  """
  own = jnp.take_along_axis(detail_logits, labels[..., None], -1)
  others = jnp.where(jax.nn.one_hot(labels, detail_logits.shape[-1], dtype=bool), -jnp.inf, detail_logits)
  return jnp.clip(jax.nn.logsumexp(others, -1) - own[..., 0], -20.0, 20.0)


def unweighted(
  logits: Float[Array, "*pixels C"], weights: tuple[float, ...], share: float | Float[Array, ""] = 1.0
) -> Float[Array, "*pixels C"]:
  """Logits [..., C] whose softmax estimates P(class), from ones trained with a weight for each class.

  Under weights w the cross-entropy is smallest at w P / sum(w P); see Menon et al., ICLR 2021. () changes nothing.

  Args:
    logits: as trained.
    weights: w.
    share: 1 estimates P; 0 keeps the logits; between, the labels lean towards rare classes by less than w.
  """
  if not weights:
    return logits
  shift = share * jnp.log(jnp.asarray(weights, logits.dtype))
  return logits - jnp.broadcast_to(shift, logits.shape)


def confidence_maps(logits: Float[Array, "*pixels C"]) -> Float[Array, "*pixels 3"]:
  """Entropy (in units of log C), max probability and top-2 margin of softmax(logits), [..., C] -> [..., 3]."""
  log_p = jax.nn.log_softmax(logits)
  p = jnp.exp(log_p)
  entropy = -(p * log_p).sum(-1) / jnp.log(logits.shape[-1])
  # Not lax.top_k: XLA does not split it over devices, and would gather the whole batch on each.
  best, classes = p.max(-1), jax.lax.broadcasted_iota(jnp.int32, p.shape, p.ndim - 1)
  second = jnp.where(classes == jnp.argmax(p, -1, keepdims=True), 0, p).max(-1)
  return jnp.stack([entropy, best, best - second], -1)


@struct.dataclass
class CoarseError:
  """An error branch's logit before it is resized.

  Attributes:
    logit: [B, h, w]; the whole of it, or the correction to scale * z0 + offset.
    scale: [] of the prior; None without.
    offset: [], see scale.
  """

  logit: jax.Array
  scale: Any = None
  offset: Any = None


class ErrorBranch(nn.Module):
  """GAU over conv(P_sb) with conv(RGB) and the network's high-level features, two convolutions, one logit.

  Attributes:
    features: channels.
    prior: "none": as published. "msp": the branch adds a learned correction to s * z0 + c with z0 the logit of
      1 - max P_sb, so it starts at that score. "detail": the same with z0 from the detail branch's disbelief
      in the frozen label; P_db joins the inputs and the detail stage runs first.
    gate: of the GAU, "sigmoid" or "relu".
    dropout: rate before the last convolution.
  """

  features: int = 64
  prior: str = "none"
  gate: str = "sigmoid"
  dropout: float = 0.0
  dtype: str = "float32"

  @nn.compact
  def __call__(
    self,
    image: jax.Array,
    features: Features,
    semantic: jax.Array,
    detail: jax.Array | None = None,
    train: bool = False,
    sampled: Callable[[tuple[int, int]], jax.Array] | None = None,
    resized: bool = True,
  ) -> jax.Array | CoarseError:
    """Logit of P(wrong).

    Args:
      image: uint8 [B, H, W, 3].
      features: of the frozen network.
      semantic: its logits at the label's size, [B, H, W, C].
      detail: the detail branch's logits [B, H, W, C], `unweighted`; needed by prior "detail".
      train: dropout on.
      sampled: size -> `detail` resized to it, where there is a cheaper way.
      resized: False: the logit as it comes out of the last convolution, for `at_size`.

    Returns:
      [B, H, W], or a CoarseError.
    """
    if sampled is None and detail is not None:
      sampled = functools.partial(resize, detail)
    low = self.low_level(image, features.logits, sampled)
    high = low if features.high is None else features.high.astype(self.dtype)
    x = GAU(self.features, self.gate, self.dtype, name="gau")(low, high)
    x = ConvGNReLU(self.features, dtype=self.dtype, name="conv1")(x)
    x = ConvGNReLU(self.features, dtype=self.dtype, name="conv2")(x)
    x = nn.Dropout(self.dropout)(x, deterministic=not train)
    # With a prior the correction starts at zero, so the branch starts at the prior's ranking.
    start = nn.initializers.normal(0.01) if self.prior == "none" else nn.initializers.zeros
    kind = param_dtype(self.dtype)
    logit = nn.Conv(1, (1, 1), kernel_init=start, dtype=kind, param_dtype=kind, name="logit")(x)
    coarse = CoarseError(logit[..., 0])
    if self.prior != "none":
      scale = self.param("prior_scale", nn.initializers.ones, (), kind)
      offset = self.param("prior_offset", nn.initializers.zeros, (), kind)
      coarse = CoarseError(logit[..., 0], scale, offset)
    return self.at_size(coarse, semantic, detail) if resized else coarse

  def at_size(self, coarse: CoarseError, semantic: jax.Array, detail: jax.Array | None) -> jax.Array:
    """The logit at the label's size."""
    logit = resize(coarse.logit[..., None], semantic.shape[1:3])[..., 0]
    if self.prior == "none":
      return logit
    return coarse.scale * self.prior_logit(semantic, detail) + coarse.offset + logit

  def prior_logit(self, semantic: jax.Array, detail: jax.Array | None) -> jax.Array:
    if self.prior == "msp":
      return max_probability_logit(semantic)
    assert detail is not None
    return disbelief_logit(detail, semantic.argmax(-1))

  def low_level(self, image, logits, sampled):
    """concat(conv(P_sb), conv(RGB)) at the resolution of the logits, but no finer than stride 4."""
    height, width = image.shape[1:3]
    size = (min(logits.shape[1], -(-height // 4)), min(logits.shape[2], -(-width // 4)))
    logits = resize(logits, size)
    inputs = [jax.nn.softmax(logits)]
    if self.prior != "none":
      inputs.append(confidence_maps(logits))
    if self.prior == "detail":
      if sampled is None:
        raise ValueError("ErrorBranch(prior='detail') needs the detail branch's logits")
      inputs.append(jax.nn.softmax(sampled(size)))
    half = self.features // 2
    p = jnp.concatenate(inputs, -1).astype(self.dtype)
    p = ConvGNReLU(half, dtype=self.dtype, name="probability")(p)
    rgb = (image.astype(self.dtype) - 127.5) / 127.5
    rgb = ConvGNReLU(max(8, half // 2), 3, 2, dtype=self.dtype, name="rgb1")(rgb)
    rgb = ConvGNReLU(half, 3, 2, dtype=self.dtype, name="rgb2")(rgb)
    return jnp.concatenate([p, resize(rgb, size)], -1)
