"""Losses. Each is a weighted sum over pixels divided by a global count, at least 1.

Under `jit` the sums run over the global batch, all devices and hosts. A pixel labelled 255 has weight 0; a batch
without a valid pixel gives loss 0 and gradient 0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from errseg_jax.errors import UserError
from errseg_jax.metrics.calibration import IDENTITY, Calibration, calibrated
from errseg_jax.metrics.class_groups import aggregated, row_normalised
from errseg_jax.models.cascade import Refine
from errseg_jax.models.confusion_groups import group_label
from errseg_jax.models.error_branch import max_probability_logit
from errseg_jax.pixel_losses import (
  PLAIN,
  CrossEntropy,
  InverseFrequency,
  hardest,
  label_weights,
  pixel_cross_entropy,
  weighted_mean,
)
from errseg_jax.structs import IGNORE, Outputs


def error_target(semantic: jax.Array, label: jax.Array) -> jax.Array:
  """M_err of Eq. 1: True where argmax of the frozen logits [..., C] is not the label; False where ignored."""
  return (semantic.argmax(-1) != label) & (label != IGNORE)


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
    raise UserError(f"{section}.balance={balance} must be between 0 (off) and 1 (inverse frequency)")


def check_weighed_once(pixel: CrossEntropy, balance: float, weights: tuple[float, ...], section: str) -> None:
  """Refuses class weights from two sides.

  Raises:
    UserError: the pixel loss brings its own, and there is a balance or weights by hand.
  """
  if isinstance(pixel, InverseFrequency) and (balance or weights):
    raise UserError(
      f"{section}.pixel weighs classes by their frequency, and so do {section}.balance={balance} and "
      f"class_weights={weights}: set balance to 0 and class_weights to (), or take another pixel loss"
    )


@dataclasses.dataclass(frozen=True)
class SemanticLoss:
  """Mean pixel loss of the semantic branch over valid pixels.

  Attributes:
    balance: power of `class_weights`, which then come from the training labels; 0 = off.
    class_weights: weight of each class; () = none.
    jaccard: weight of `jaccard_loss` beside the pixel loss; 0 = off.
    auxiliary_weight: of the same loss on an auxiliary head's logits, where the network has one (0.4 in PSPNet).
    pixel: what a pixel costs and which count; one of `PIXEL_LOSSES`.
  """

  balance: float = 0.0
  class_weights: tuple[float, ...] = ()
  jaccard: float = 0.0
  auxiliary_weight: float = 0.4
  pixel: CrossEntropy = PLAIN

  def __post_init__(self):
    check_balance(self.balance, "semantic_loss")
    check_weighed_once(self.pixel, self.balance, self.class_weights, "semantic_loss")
    check_jaccard(self.jaccard, "semantic_loss")
    if self.auxiliary_weight < 0:
      raise UserError(f"semantic_loss.auxiliary_weight={self.auxiliary_weight} must be at least 0")

  def __call__(self, outputs: Outputs, label: jax.Array, confusion: jax.Array | None = None) -> jax.Array:
    """The loss; `confusion` [C, C] where the pixel loss wants it."""
    loss = self.pixel_loss(outputs.semantic, label, confusion)
    loss = with_jaccard(loss, outputs.semantic, label, self.jaccard)
    if outputs.auxiliary is None:
      return loss
    return loss + self.auxiliary_weight * self.pixel_loss(outputs.auxiliary, label, confusion)

  def matrices(self, counts: np.ndarray) -> np.ndarray:
    """What `confusion` is for pixels counted by truth and label, [C, C]."""
    return row_normalised(counts).astype(np.float32)

  def pixel_loss(self, logits: jax.Array, label: jax.Array, confusion: jax.Array | None) -> jax.Array:
    """Mean over the pixels that count for logits [B, H, W, C], label [B, H, W]."""
    values = self.pixel.values(logits, label, confusion)
    given = label_weights(label, self.class_weights, values.dtype)
    return weighted_mean(values, given * self.pixel.pixel_weights(values, label))


@dataclasses.dataclass(frozen=True)
class SubnetsLoss:
  """Sum of the subnets' losses, each in its own output space (P1).

  Attributes:
    groups: class indices of each group.
    pixel: what a pixel costs and which count; one of `PIXEL_LOSSES` that weighs no class of the data set.
    jaccard: weight of `jaccard_loss`, in the subnet's space, beside the pixel loss; 0 = off, as published.
  """

  groups: tuple[tuple[int, ...], ...]
  pixel: CrossEntropy = PLAIN
  jaccard: float = 0.0

  def __post_init__(self):
    check_jaccard(self.jaccard, "subnets_loss")
    if isinstance(self.pixel, InverseFrequency):
      raise UserError(
        "subnets_loss.pixel weighs the classes of the data set, and a subnet has its own: take another"
      )

  def __call__(
    self, outputs: Outputs, label: jax.Array, confusion: Sequence[jax.Array] | None = None
  ) -> jax.Array:
    """The loss; `confusion`: [K_g + 1, K_g + 1] of each group where the pixel loss wants it."""
    losses = []
    for number, (logits, group) in enumerate(zip(outputs.subnets, self.groups, strict=True)):
      own = group_label(label, group)
      values = self.pixel.values(logits, own, None if confusion is None else confusion[number])
      loss = weighted_mean(values, self.pixel.pixel_weights(values, own))
      losses.append(with_jaccard(loss, logits, own, self.jaccard))
    return jnp.stack(losses).sum()

  def matrices(self, counts: np.ndarray) -> tuple[np.ndarray, ...]:
    """What `confusion` is for pixels counted by truth and label, [C, C]."""
    return tuple(row_normalised(aggregated(counts, group)).astype(np.float32) for group in self.groups)


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
  """L_db (P0, Eq. 3): pixel loss of the detail branch where the frozen network is likely wrong.

  Where the detail stage runs before the error stage, 1 - max P_sb stands in for P_ep.

  Attributes:
    weights: "mask": E_ep = P_ep > t, as published. "soft": 1 + k P_ep on every pixel. "all": 1. "rank": 1 on the
      `share` of each image's pixels with the largest loss (loss-rank hard mining, P0, Table 3), else 0. "cascade":
      each decoder of a cascade on the pixels that reach it.
    t: threshold of "mask".
    k: strength of "soft".
    share: of "rank", 0..1.
    jaccard: weight of `jaccard_loss` beside the pixel loss; 0 = off, as published.
    balance: power of `class_weights`, which then come from the training labels; 0 = off, as published. What a
      network misses most are rare classes.
    class_weights: weight of each class; () = none.
    max_probability: take 1 - max P_sb in place of P_ep.
    calibration: of the error logit; the identity leaves P_ep raw, as published.
    pixel: what a pixel costs and which count; one of `PIXEL_LOSSES`. Cross-entropy as published.
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
  pixel: CrossEntropy = PLAIN

  def __post_init__(self):
    check_balance(self.balance, "detail_loss")
    check_weighed_once(self.pixel, self.balance, self.class_weights, "detail_loss")
    if not 0 < self.share <= 1:
      raise UserError(f"detail_loss.share={self.share} must be above 0 and at most 1")
    check_jaccard(self.jaccard, "detail_loss")
    if self.jaccard and self.weights == "cascade":
      raise UserError("detail_loss.jaccard must be 0 with detail_loss.weights='cascade': it knows no stages")

  def __call__(self, outputs: Outputs, label: jax.Array, confusion: jax.Array | None = None) -> jax.Array:
    """The loss; `confusion` [C, C] where the pixel loss wants it."""
    if self.weights == "cascade":
      return self.cascade(outputs, label, confusion)
    values = self.pixel.values(outputs.detail, label, confusion)
    loss = weighted_mean(values, self.pixel_weights(outputs, label, values))
    return with_jaccard(loss, outputs.detail, label, self.jaccard)

  def matrices(self, counts: np.ndarray) -> np.ndarray:
    """What `confusion` is for pixels counted by truth and label, [C, C]."""
    return row_normalised(counts).astype(np.float32)

  def cascade(self, outputs: Outputs, label: jax.Array, confusion: jax.Array | None) -> jax.Array:
    """Sum over the decoders of the mean pixel loss on the pixels that reach them."""
    losses = []
    for logits, reached in outputs.stages:
      values = self.pixel.values(logits, label, confusion)
      losses.append(weighted_mean(values, self.given_weights(values, label) * reached))
    return jnp.stack(losses).sum()

  def given_weights(self, values: jax.Array, label: jax.Array) -> jax.Array:
    """Weight of each pixel by its class and by the pixel loss, [B, H, W]."""
    by_class = label_weights(label, self.class_weights, values.dtype)
    return by_class * self.pixel.pixel_weights(values, label)

  def pixel_weights(self, outputs: Outputs, label: jax.Array, values: jax.Array) -> jax.Array:
    """Weight of each pixel [B, H, W], of pixel loss `values`; no gradient flows through it."""
    given = self.given_weights(values, label)
    if self.weights == "all":
      return given
    if self.weights == "rank":
      return given * hardest(values, label, self.share)
    if self.max_probability or outputs.error is None:
      logit = max_probability_logit(outputs.semantic)
    else:
      logit = calibrated(outputs.error, self.calibration.arrays())
    p = jax.lax.stop_gradient(jax.nn.sigmoid(logit))
    return given * ((p > self.t) if self.weights == "mask" else 1.0 + self.k * p).astype(values.dtype)


@dataclasses.dataclass(frozen=True)
class CascadeLoss:
  """Coarse, attention and refined result of a cascade, one loss each, all trained at once (P2).

  The attention learns where the coarse labels are wrong as they are in this step; no gradient flows through that.

  Attributes:
    semantic: of the coarse branch; its class weights, or those of its pixel loss, hold for the refined result too.
    error: of the attention branch, its difficulty map balanced as L_ep.
    refine: what the three branches come to.
    coarse: weight of the coarse loss.
    attention: of the attention loss.
    refined: of the mean of -log P_refine[y].
  """

  semantic: SemanticLoss
  error: ErrorLoss
  refine: Refine
  coarse: float = 1.0
  attention: float = 1.0
  refined: float = 1.0

  def __post_init__(self):
    weights = {name: getattr(self, name) for name in ("coarse", "attention", "refined")}
    if not all(0 <= weight < math.inf for weight in weights.values()) or not any(weights.values()):
      raise UserError(f"cascade_loss: the weights {weights} must be 0 (off) or more, and one above 0")

  @property
  def pixel(self) -> CrossEntropy:
    """The coarse branch's pixel loss."""
    return self.semantic.pixel

  def matrices(self, counts: np.ndarray) -> np.ndarray:
    """What `confusion` is for pixels counted by truth and coarse label, [C, C]."""
    return self.semantic.matrices(counts)

  def __call__(self, outputs: Outputs, label: jax.Array, confusion: jax.Array | None = None) -> jax.Array:
    """The weighted sum of `terms`."""
    terms = self.terms(outputs, label, confusion)
    return sum(getattr(self, name) * term for name, term in terms.items()) + 0.0

  def terms(
    self, outputs: Outputs, label: jax.Array, confusion: jax.Array | None = None
  ) -> dict[str, jax.Array]:
    """ "coarse", "attention" and "refined", each a mean over the valid pixels."""
    fixed = dataclasses.replace(outputs, semantic=jax.lax.stop_gradient(outputs.semantic))
    nll = self.refine.nll(outputs.semantic, outputs.detail, outputs.error, label)
    by_class = self.semantic.class_weights or getattr(self.semantic.pixel, "class_weights", ())
    return {
      "coarse": self.semantic(outputs, label, confusion),
      "attention": self.error(fixed, label),
      "refined": weighted_mean(nll, label_weights(label, by_class, nll.dtype)),
    }


WEIGHTS = ("mask", "soft", "all", "rank", "cascade")
TARGETS = ("error", "tcp", "tcp_normalised")
