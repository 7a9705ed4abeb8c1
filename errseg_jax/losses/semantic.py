"""The loss of the segmentation network itself."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Array, Float, Integer, Shaped, UInt8

from errseg_jax.errors import UserError
from errseg_jax.losses.class_balance import check_balance, check_weighed_once
from errseg_jax.losses.jaccard import check_jaccard, with_jaccard
from errseg_jax.metrics.class_groups import row_normalised
from errseg_jax.pixel_losses import PLAIN, CrossEntropy, label_weights, weighted_mean
from errseg_jax.structs import Outputs


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

  def __call__(
    self, outputs: Outputs, label: UInt8[Array, "B H W"], confusion: Float[Array, "C C"] | None = None
  ) -> Float[Array, ""]:
    """The loss; `confusion` [C, C] where the pixel loss wants it."""
    loss = self.pixel_loss(outputs.semantic, label, confusion)
    loss = with_jaccard(loss, outputs.semantic, label, self.jaccard)
    if outputs.auxiliary is None:
      return loss
    return loss + self.auxiliary_weight * self.pixel_loss(outputs.auxiliary, label, confusion)

  def matrices(self, counts: Shaped[np.ndarray, "C C"]) -> Float[np.ndarray, "C C"]:
    """What `confusion` is for pixels counted by truth and label, [C, C]."""
    return row_normalised(counts).astype(np.float32)

  def pixel_loss(
    self,
    logits: Float[Array, "B H W C"],
    label: Integer[Array, "B H W"],
    confusion: Float[Array, "C C"] | None,
  ) -> Float[Array, ""]:
    """Mean over the pixels that count for logits [B, H, W, C], label [B, H, W]."""
    values = self.pixel.values(logits, label, confusion)
    given = label_weights(label, self.class_weights, values.dtype)
    return weighted_mean(values, given * self.pixel.pixel_weights(values, label))
