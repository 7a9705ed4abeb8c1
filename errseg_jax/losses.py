"""Losses. Each is a weighted sum over pixels divided by a global count, at least 1.

Under `jit` the sums run over the global batch, all devices and hosts. A pixel labelled 255 has weight 0; a batch
without a valid pixel gives loss 0 and gradient 0.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from errseg_jax.errors import UserError
from errseg_jax.metrics.calibration import IDENTITY, Calibration, calibrated
from errseg_jax.models.error_branch import max_probability_logit
from errseg_jax.structs import IGNORE, Outputs


def weighted_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
  """sum(values * weights) / max(sum(weights), 1)."""
  return (values * weights).sum() / jnp.maximum(weights.sum(), 1.0)


def pixel_cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
  """-log softmax(logits)[label] per pixel; 0 where the label is 255.

  Args:
    logits: [..., C].
    label: uint8 [...].
  """
  valid = label != IGNORE
  safe = jnp.where(valid, label, 0).astype(jnp.int32)
  picked = jnp.take_along_axis(logits, safe[..., None], -1)[..., 0]
  return jnp.where(valid, jax.nn.logsumexp(logits, -1) - picked, 0.0)


def class_weights(frequencies: np.ndarray, power: float) -> tuple[float, ...]:
  """Weights that lift rare classes: (median frequency / frequency)^power, 1 for a pixel on average.

  power 1 is median frequency balancing (Eigen and Fergus, ICCV 2015), 0 weighs every class alike. A class without
  a pixel gets the largest weight of the others.

  Args:
    frequencies: share of each class among the labelled pixels, [C].
    power: 0..1.
  """
  shares = np.asarray(frequencies, np.float64)
  present = shares[shares > 0]
  if not len(present):
    return (1.0,) * len(shares)
  weights = (np.median(present) / np.maximum(shares, present.min())) ** power
  return tuple(float(w) for w in weights / (weights * shares).sum())


def label_weights(label: jax.Array, weights: tuple[float, ...], dtype: Any) -> jax.Array:
  """The weight of each pixel's class, 1 without weights; 0 where the label is 255."""
  valid = label != IGNORE
  if not weights:
    return valid.astype(dtype)
  return valid * jnp.asarray(weights, dtype)[jnp.where(valid, label, 0)]


def error_target(semantic: jax.Array, label: jax.Array) -> jax.Array:
  """M_err of Eq. 1: True where argmax of the frozen logits [..., C] is not the label; False where ignored."""
  return (semantic.argmax(-1) != label) & (label != IGNORE)


def hardest(loss: jax.Array, label: jax.Array, share: float) -> jax.Array:
  """True for the `share` of each image's valid pixels with the largest loss, [B, H, W]; equal ones go together.

  By image, so that it does not matter which images a device holds.
  """
  flat = jax.lax.stop_gradient(jnp.where(label == IGNORE, -jnp.inf, loss)).reshape(len(loss), -1)
  count = jnp.ceil(share * (label != IGNORE).sum((1, 2))).astype(jnp.int32)
  ranked = -jnp.sort(-flat, -1)
  last = jnp.take_along_axis(ranked, jnp.maximum(count - 1, 0)[:, None], -1)
  return (flat >= last).reshape(loss.shape) & (label != IGNORE)


def jaccard_loss(logits: jax.Array, label: jax.Array) -> jax.Array:
  """1 - mean soft IoU of the classes in the batch (Rahman and Wang, ISVC 2016).

  IoU is what is reported: cross-entropy alone buys a rare class's recall with many pixels of the common ones.

  Args:
    logits: [..., C].
    label: uint8 [...]. Without a valid pixel the loss is 0.
  """
  p = jax.nn.softmax(logits) * (label != IGNORE)[..., None]
  y = jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype)  # 255 is no class: a row of zeros
  axes = tuple(range(label.ndim))
  overlap, area = (p * y).sum(axes), y.sum(axes)
  iou = overlap / jnp.maximum(p.sum(axes) + area - overlap, 1.0)
  return weighted_mean(1 - iou, (area > 0).astype(logits.dtype))


def with_jaccard(loss: jax.Array, logits: jax.Array, label: jax.Array, weight: float) -> jax.Array:
  """loss + weight * jaccard_loss; at weight 0 its cost is spared."""
  return loss + weight * jaccard_loss(logits, label) if weight else loss


def check_jaccard(weight: float, section: str) -> None:
  """Refuses a negative weight.

  Raises:
    UserError: it is negative.
  """
  if weight < 0:
    raise UserError(f"{section}.jaccard={weight} must be 0 (off) or more")


def check_balance(balance: float, section: str) -> None:
  """Refuses a power of `class_weights` that is none.

  Raises:
    UserError: it is not in 0..1.
  """
  if not 0 <= balance <= 1:
    raise UserError(f"{section}.balance={balance} must be between 0 (off) and 1 (median frequency)")


@dataclasses.dataclass(frozen=True)
class SemanticLoss:
  """Mean cross-entropy of the semantic branch over valid pixels.

  Attributes:
    balance: power of `class_weights`, which then come from the training labels; 0 = off.
    class_weights: weight of each class; () = none.
    jaccard: weight of `jaccard_loss` beside the cross-entropy; 0 = off.
    auxiliary_weight: of the same loss on an auxiliary head's logits, where the network has one (0.4 in PSPNet).
  """

  balance: float = 0.0
  class_weights: tuple[float, ...] = ()
  jaccard: float = 0.0
  auxiliary_weight: float = 0.4

  def __post_init__(self):
    check_balance(self.balance, "semantic_loss")
    check_jaccard(self.jaccard, "semantic_loss")
    if self.auxiliary_weight < 0:
      raise UserError(f"semantic_loss.auxiliary_weight={self.auxiliary_weight} must be at least 0")

  def __call__(self, outputs: Outputs, label: jax.Array) -> jax.Array:
    loss = with_jaccard(self.cross_entropy(outputs.semantic, label), outputs.semantic, label, self.jaccard)
    if outputs.auxiliary is None:
      return loss
    return loss + self.auxiliary_weight * self.cross_entropy(outputs.auxiliary, label)

  def cross_entropy(self, logits: jax.Array, label: jax.Array) -> jax.Array:
    """Mean over the valid pixels for logits [B, H, W, C], label [B, H, W]."""
    loss = pixel_cross_entropy(logits, label)
    return weighted_mean(loss, label_weights(label, self.class_weights, loss.dtype))


@dataclasses.dataclass(frozen=True)
class ErrorLoss:
  """What the error branch learns: whether the frozen label is wrong, or how probable the true class was.

  Attributes:
    w1: weight of easy errors (max P_sb <= rho).
    w2: weight of hard errors (max P_sb > rho).
    w3: weight of correct pixels; None: n_err / max(n_correct, 1) of each image, within [w3_min, 1].
    w3_min: its lower bound.
    rho: confidence above which an error is hard.
    target: "error": L_ep (P0, Eq. 2), balanced binary cross-entropy with a larger weight on confident errors.
      "tcp": squared distance of 1 - P_ep to P_sb[y], the true class probability (Corbiere et al., NeurIPS 2019).
      "tcp_normalised": to P_sb[y] / max P_sb.
  """

  w1: float = 1.0
  w2: float = 1.5
  w3: float | None = None
  w3_min: float = 0.001
  rho: float = 0.95
  target: str = "error"

  def __post_init__(self):
    if not 0 < self.rho < 1:
      raise UserError(f"error_loss.rho={self.rho} must be between 0 and 1")

  def weights(self, semantic: jax.Array, label: jax.Array) -> jax.Array:
    """Weight of each pixel [B, H, W], from frozen logits [B, H, W, C]; 0 where ignored."""
    wrong, valid = error_target(semantic, label), label != IGNORE
    kind = semantic.dtype
    # max P > rho, as logits: log(P / (1 - P)) > log(rho / (1 - rho)).
    hard = -max_probability_logit(semantic) > math.log(self.rho / (1 - self.rho))
    if self.w3 is None:
      count = wrong.sum((1, 2), keepdims=True).astype(kind)
      correct = (valid & ~wrong).sum((1, 2), keepdims=True).astype(kind)
      w3 = jnp.clip(count / jnp.maximum(correct, 1.0), self.w3_min, 1.0)
    else:
      w3 = jnp.asarray(self.w3, kind)
    weight = jnp.where(wrong, jnp.where(hard, self.w2, self.w1).astype(kind), w3)
    return weight * valid

  def __call__(self, outputs: Outputs, label: jax.Array) -> jax.Array:
    semantic, logit = outputs.semantic, outputs.error
    if self.target != "error":
      return self.true_class_probability(outputs, label)
    wrong = error_target(semantic, label)
    loss = -jax.nn.log_sigmoid(jnp.where(wrong, logit, -logit))
    valid = (label != IGNORE).astype(loss.dtype)
    return (loss * self.weights(semantic, label)).sum() / jnp.maximum(valid.sum(), 1.0)

  def true_class_probability(self, outputs: Outputs, label: jax.Array) -> jax.Array:
    """Mean squared distance over the valid pixels."""
    log_p = -pixel_cross_entropy(outputs.semantic, label)
    if self.target == "tcp_normalised":
      log_p -= jax.nn.log_softmax(outputs.semantic).max(-1)
    valid = (label != IGNORE).astype(log_p.dtype)
    return weighted_mean((jax.nn.sigmoid(-outputs.error) - jnp.exp(log_p)) ** 2, valid)


@dataclasses.dataclass(frozen=True)
class DetailLoss:
  """L_db (P0, Eq. 3): cross-entropy of the detail branch where the frozen network is likely wrong.

  Where the detail stage runs before the error stage, 1 - max P_sb stands in for P_ep.

  Attributes:
    weights: "mask": E_ep = P_ep > t, as published. "soft": 1 + k P_ep on every pixel. "all": 1. "rank": 1 on the
      `share` of each image's pixels with the largest loss (loss-rank hard mining, P0, Table 3), else 0. "cascade":
      each decoder of a cascade on the pixels that reach it.
    t: threshold of "mask".
    k: strength of "soft".
    share: of "rank", 0..1.
    jaccard: weight of `jaccard_loss` beside the cross-entropy; 0 = off, as published.
    balance: power of `class_weights`, which then come from the training labels; 0 = off, as published. What a
      network misses most are rare classes.
    class_weights: weight of each class; () = none.
    max_probability: take 1 - max P_sb in place of P_ep.
    calibration: of the error logit; the identity leaves P_ep raw, as published.
  """

  weights: str = "mask"
  t: float = 0.7
  k: float = 4.0
  share: float = 0.2
  jaccard: float = 0.0
  balance: float = 0.0
  class_weights: tuple[float, ...] = ()
  max_probability: bool = False
  calibration: Calibration = IDENTITY

  def __post_init__(self):
    check_balance(self.balance, "detail_loss")
    if not 0 < self.share <= 1:
      raise UserError(f"detail_loss.share={self.share} must be above 0 and at most 1")
    check_jaccard(self.jaccard, "detail_loss")
    if self.jaccard and self.weights == "cascade":
      raise UserError("detail_loss.jaccard must be 0 with detail_loss.weights='cascade': it knows no stages")

  def __call__(self, outputs: Outputs, label: jax.Array) -> jax.Array:
    if self.weights == "cascade":
      return self.cascade(outputs, label)
    loss = pixel_cross_entropy(outputs.detail, label)
    loss = weighted_mean(loss, self.pixel_weights(outputs, label).astype(loss.dtype))
    return with_jaccard(loss, outputs.detail, label, self.jaccard)

  def cascade(self, outputs: Outputs, label: jax.Array) -> jax.Array:
    """Sum over the decoders of the mean cross-entropy on the pixels that reach them."""
    given = label_weights(label, self.class_weights, outputs.semantic.dtype)
    losses = [weighted_mean(pixel_cross_entropy(z, label), given * reached) for z, reached in outputs.stages]
    return jnp.stack(losses).sum()

  def pixel_weights(self, outputs: Outputs, label: jax.Array) -> jax.Array:
    """Weight of each pixel [B, H, W]; no gradient flows through it."""
    given = label_weights(label, self.class_weights, outputs.semantic.dtype)
    if self.weights == "all":
      return given
    if self.weights == "rank":
      return given * hardest(pixel_cross_entropy(outputs.detail, label), label, self.share)
    if self.max_probability or outputs.error is None:
      logit = max_probability_logit(outputs.semantic)
    else:
      logit = calibrated(outputs.error, self.calibration.arrays())
    p = jax.lax.stop_gradient(jax.nn.sigmoid(logit))
    return given * ((p > self.t) if self.weights == "mask" else 1.0 + self.k * p)


WEIGHTS = ("mask", "soft", "all", "rank", "cascade")
TARGETS = ("error", "tcp", "tcp_normalised")
