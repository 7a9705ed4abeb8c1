"""The soft Jaccard loss, a term of several losses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from errseg_jax.errors import UserError
from errseg_jax.pixel_losses import weighted_mean
from errseg_jax.structs import IGNORE


def jaccard_loss(logits: Float[Array, "*pixels C"], label: Integer[Array, "*pixels"]) -> Float[Array, ""]:
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


def with_jaccard(
  loss: Float[Array, ""], logits: Float[Array, "*pixels C"], label: Integer[Array, "*pixels"], weight: float
) -> Float[Array, ""]:
  """loss + weight * jaccard_loss; at weight 0 its cost is spared."""
  return loss + weight * jaccard_loss(logits, label) if weight else loss


def check_jaccard(weight: float, section: str) -> None:
  """Refuses a negative weight.

  Raises:
    UserError: it is negative.
  """
  if weight < 0:
    raise UserError(f"{section}.jaccard={weight} must be 0 (off) or more")
