"""The loss of a cascade of coarse, attention and refine branches (P2)."""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8

from errseg_jax.errors import UserError
from errseg_jax.losses.error import ErrorLoss
from errseg_jax.losses.semantic import SemanticLoss
from errseg_jax.models.cascade import Refine
from errseg_jax.pixel_losses import CrossEntropy, label_weights, pixel_cross_entropy, weighted_mean
from errseg_jax.structs import Outputs


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
    fine: of the mean of -log P_fine[y]. As published 0: the fine network learns where the attention is, and the less
      the better the coarse branch gets.
  """

  semantic: SemanticLoss
  error: ErrorLoss
  refine: Refine
  coarse: float = 1.0
  attention: float = 1.0
  refined: float = 1.0
  fine: float = 0.0

  def __post_init__(self):
    weights = {name: getattr(self, name) for name in ("coarse", "attention", "refined", "fine")}
    if not all(0 <= weight < math.inf for weight in weights.values()) or not any(weights.values()):
      raise UserError(f"cascade_loss: the weights {weights} must be 0 (off) or more, and one above 0")

  @property
  def pixel(self) -> CrossEntropy:
    """The coarse branch's pixel loss."""
    return self.semantic.pixel

  def matrices(self, counts: Shaped[np.ndarray, "C C"]) -> Float[np.ndarray, "C C"]:
    """What `confusion` is for pixels counted by truth and coarse label, [C, C]."""
    return self.semantic.matrices(counts)

  def __call__(
    self, outputs: Outputs, label: UInt8[Array, "B H W"], confusion: Float[Array, "C C"] | None = None
  ) -> Float[Array, ""]:
    """The weighted sum of `terms`."""
    terms = self.terms(outputs, label, confusion)
    return sum(getattr(self, name) * term for name, term in terms.items()) + 0.0

  def terms(
    self, outputs: Outputs, label: UInt8[Array, "B H W"], confusion: Float[Array, "C C"] | None = None
  ) -> dict[str, Float[Array, ""]]:
    """ "coarse", "attention", "refined" and, where it counts, "fine", each a mean over the valid pixels."""
    fixed = dataclasses.replace(outputs, semantic=jax.lax.stop_gradient(outputs.semantic))
    nll = self.refine.nll(outputs.semantic, outputs.detail, outputs.error, label)
    by_class = self.semantic.class_weights or getattr(self.semantic.pixel, "class_weights", ())
    weights = label_weights(label, by_class, nll.dtype)
    terms = {
      "coarse": self.semantic(outputs, label, confusion),
      "attention": self.error(fixed, label),
      "refined": weighted_mean(nll, weights),
    }
    if not self.fine:
      return terms
    return {**terms, "fine": weighted_mean(pixel_cross_entropy(outputs.detail, label), weights)}
