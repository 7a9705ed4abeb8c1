"""The loss of a network with guidance by image classification (P3)."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8

from errseg_jax.errors import UserError
from errseg_jax.losses.semantic import SemanticLoss
from errseg_jax.metrics.presence import present_classes
from errseg_jax.pixel_losses import CrossEntropy, weighted_mean
from errseg_jax.structs import IGNORE, Outputs


@dataclasses.dataclass(frozen=True)
class GuidedLoss:
  """Pixel loss of the guided scores, and the presence of each class in the crop (P3, section 3.1).

  Attributes:
    semantic: of the guided scores.
    presence: weight of the mean binary cross-entropy of the global scores over images and classes; 0 = off.
  """

  semantic: SemanticLoss
  presence: float = 1.0

  def __post_init__(self):
    if not 0 <= self.presence < math.inf:
      raise UserError(f"guidance_loss.presence={self.presence} must be 0 (off) or more")

  @property
  def pixel(self) -> CrossEntropy:
    """The guided scores' pixel loss."""
    return self.semantic.pixel

  def matrices(self, counts: Shaped[np.ndarray, "C C"]) -> Float[np.ndarray, "C C"]:
    """What `confusion` is for pixels counted by truth and label, [C, C]."""
    return self.semantic.matrices(counts)

  def __call__(
    self, outputs: Outputs, label: UInt8[Array, "B H W"], confusion: Float[Array, "C C"] | None = None
  ) -> Float[Array, ""]:
    """The weighted sum of `terms`; `confusion` [C, C] where the pixel loss wants it."""
    terms = self.terms(outputs, label, confusion)
    return terms["pixel"] + self.presence * terms["presence"]

  def terms(
    self, outputs: Outputs, label: UInt8[Array, "B H W"], confusion: Float[Array, "C C"] | None = None
  ) -> dict[str, Float[Array, ""]]:
    """ "pixel" and "presence"; an image without a valid pixel says nothing of presence."""
    present, scores = present_classes(label, outputs.presence.shape[-1]), outputs.presence
    loss = -jax.nn.log_sigmoid(jnp.where(present, scores, -scores)).mean(-1)
    labelled = (label != IGNORE).any((1, 2)).astype(loss.dtype)
    return {
      "pixel": self.semantic(outputs, label, confusion),
      "presence": weighted_mean(loss, labelled),
    }
