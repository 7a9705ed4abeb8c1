"""The loss of the detail branch: L_db (P0, Eq. 3) and its alternatives."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8

from errseg_jax.errors import UserError
from errseg_jax.kernels import DetailTerms, Terms, fused_sums
from errseg_jax.losses.class_balance import check_balance, check_weighed_once
from errseg_jax.losses.jaccard import check_jaccard, with_jaccard
from errseg_jax.metrics.calibration import IDENTITY, Calibration, calibrated
from errseg_jax.metrics.class_groups import row_normalised
from errseg_jax.models.error_branch import max_probability_logit
from errseg_jax.pixel_losses import PLAIN, CrossEntropy, hardest, label_weights, weighted_mean
from errseg_jax.structs import Outputs

WEIGHTS = ("mask", "soft", "all", "rank", "cascade")


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

  def __call__(
    self, outputs: Outputs, label: UInt8[Array, "B H W"], confusion: Float[Array, "C C"] | None = None
  ) -> Float[Array, ""]:
    """The loss; `confusion` [C, C] where the pixel loss wants it."""
    if self.weights == "cascade":
      return self.cascade(outputs, label, confusion)
    sums = fused_sums(outputs.coarse, label, Terms(detail=self.terms()), confusion)
    if sums is not None:
      return sums.detail_loss(self.jaccard)
    values = self.pixel.values(outputs.detail, label, confusion)
    loss = weighted_mean(values, self.pixel_weights(outputs, label, values))
    return with_jaccard(loss, outputs.detail, label, self.jaccard)

  def terms(self) -> DetailTerms:
    """What a kernel adds up for this loss."""
    same = ("weights", "t", "k", "class_weights", "max_probability", "calibration", "pixel")
    return DetailTerms(jaccard=self.jaccard > 0, **{name: getattr(self, name) for name in same})

  def matrices(self, counts: Shaped[np.ndarray, "C C"]) -> Float[np.ndarray, "C C"]:
    """What `confusion` is for pixels counted by truth and label, [C, C]."""
    return row_normalised(counts).astype(np.float32)

  def cascade(
    self, outputs: Outputs, label: UInt8[Array, "B H W"], confusion: Float[Array, "C C"] | None
  ) -> Float[Array, ""]:
    """Sum over the decoders of the mean pixel loss on the pixels that reach them."""
    losses = []
    for logits, reached in outputs.stages:
      values = self.pixel.values(logits, label, confusion)
      losses.append(weighted_mean(values, self.given_weights(values, label) * reached))
    return jnp.stack(losses).sum()

  def given_weights(
    self, values: Float[Array, "B H W"], label: UInt8[Array, "B H W"]
  ) -> Float[Array, "B H W"]:
    """Weight of each pixel by its class and by the pixel loss, [B, H, W]."""
    by_class = label_weights(label, self.class_weights, values.dtype)
    return by_class * self.pixel.pixel_weights(values, label)

  def pixel_weights(
    self, outputs: Outputs, label: UInt8[Array, "B H W"], values: Float[Array, "B H W"]
  ) -> Float[Array, "B H W"]:
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
