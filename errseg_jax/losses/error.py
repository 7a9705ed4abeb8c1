"""The loss of the error branch: L_ep (P0, Eq. 2), or ConfidNet's."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from errseg_jax.errors import UserError
from errseg_jax.kernels import Terms, fused_sums
from errseg_jax.models.error_branch import max_probability_logit
from errseg_jax.pixel_losses import pixel_cross_entropy, weighted_mean
from errseg_jax.structs import IGNORE, Outputs

TARGETS = ("error", "tcp", "tcp_normalised")


def error_target(semantic: Float[Array, "B H W C"], label: UInt8[Array, "B H W"]) -> Bool[Array, "B H W"]:
  """M_err of Eq. 1: True where argmax of the frozen logits [..., C] is not the label; False where ignored."""
  return (semantic.argmax(-1) != label) & (label != IGNORE)


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

  def weights(self, semantic: Float[Array, "B H W C"], label: UInt8[Array, "B H W"]) -> Float[Array, "B H W"]:
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

  def __call__(self, outputs: Outputs, label: UInt8[Array, "B H W"]) -> Float[Array, ""]:
    semantic, logit = outputs.semantic, outputs.error
    if self.target != "error":
      return self.true_class_probability(outputs, label)
    sums = fused_sums(outputs.coarse, label, Terms(rho=self.rho))
    if sums is not None:
      return sums.error_loss(self.w1, self.w2, self.w3, self.w3_min)
    wrong = error_target(semantic, label)
    loss = -jax.nn.log_sigmoid(jnp.where(wrong, logit, -logit))
    valid = (label != IGNORE).astype(loss.dtype)
    return (loss * self.weights(semantic, label)).sum() / jnp.maximum(valid.sum(), 1.0)

  def true_class_probability(self, outputs: Outputs, label: UInt8[Array, "B H W"]) -> Float[Array, ""]:
    """Mean squared distance over the valid pixels."""
    log_p = -pixel_cross_entropy(outputs.semantic, label)
    if self.target == "tcp_normalised":
      log_p -= jax.nn.log_softmax(outputs.semantic).max(-1)
    valid = (label != IGNORE).astype(log_p.dtype)
    return weighted_mean((jax.nn.sigmoid(-outputs.error) - jnp.exp(log_p)) ** 2, valid)
