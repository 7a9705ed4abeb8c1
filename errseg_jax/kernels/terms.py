"""What a fused loss adds up over pixels, and what becomes of the sums."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, UInt8

from errseg_jax.metrics.calibration import IDENTITY, Calibration
from errseg_jax.pixel_losses import PLAIN, Confusion, CrossEntropy
from errseg_jax.structs import IGNORE

WEIGHTS = ("mask", "soft", "all")


@dataclasses.dataclass(frozen=True)
class DetailTerms:
  """What a pixel of the detail branch costs and weighs; the fields are those of `losses.DetailLoss`."""

  weights: str = "mask"
  t: float = 0.7
  k: float = 4.0
  jaccard: bool = False
  class_weights: tuple[float, ...] = ()
  max_probability: bool = False
  calibration: Calibration = IDENTITY
  pixel: CrossEntropy = PLAIN

  @property
  def confusion(self) -> Confusion | None:
    """The pixel loss, where it is more than cross-entropy."""
    return self.pixel if isinstance(self.pixel, Confusion) else None


@dataclasses.dataclass(frozen=True)
class Terms:
  """What is added up; what nobody asks for is not computed.

  Attributes:
    rho: max P_sb above which an error is hard; None: no sums of the error branch.
    detail: None: no sums of the detail branch.
    wrong: count the wrong pixels, without the error branch.
  """

  rho: float | None = None
  detail: DetailTerms | None = None
  wrong: bool = False

  def unsupported(self) -> str:
    """Why no kernel adds this up; "" where one does."""
    if self.detail is None:
      return ""
    if self.detail.weights not in WEIGHTS:
      return f"weights {self.detail.weights!r}"
    if type(self.detail.pixel) not in (CrossEntropy, Confusion):
      return f"pixel loss {type(self.detail.pixel).__name__}"
    return ""


@struct.dataclass
class Sums:
  """Per image, float32. A sum that was not asked for is None.

  Attributes:
    easy: [B], binary cross-entropy of P_ep over easy errors.
    hard: [B], over hard errors.
    correct: [B], over correct pixels.
    wrong_count: [B], wrong pixels.
    correct_count: [B].
    detail: [B], sum of weight * loss of the detail branch.
    weight: [B], sum of the weights.
    overlap: [B, C], sum of P_db[c] where the label is c.
    mass: [B, C], sum of P_db[c] over the valid pixels.
    area: [B, C], labelled pixels.
  """

  easy: Any = None
  hard: Any = None
  correct: Any = None
  wrong_count: Any = None
  correct_count: Any = None
  detail: Any = None
  weight: Any = None
  overlap: Any = None
  mass: Any = None
  area: Any = None

  def error_rate(self) -> Float[Array, ""]:
    """Wrong pixels among the valid ones, percent; 0 without one."""
    wrong, correct = self.wrong_count.sum(), self.correct_count.sum()
    return 100 * wrong / jnp.maximum(wrong + correct, 1.0)

  def error_loss(self, w1: float, w2: float, w3: float | None, w3_min: float) -> Float[Array, ""]:
    """L_ep (P0, Eq. 2) with the weights of `losses.ErrorLoss`."""
    valid = self.wrong_count.sum() + self.correct_count.sum()
    own = self.wrong_count / jnp.maximum(self.correct_count, 1.0)
    by_image = jnp.clip(own, w3_min, 1.0) if w3 is None else jnp.full_like(own, w3)
    total = w1 * self.easy + w2 * self.hard + jax.lax.stop_gradient(by_image) * self.correct
    return total.sum() / jnp.maximum(valid, 1.0)

  def detail_loss(self, jaccard: float) -> Float[Array, ""]:
    """L_db (P0, Eq. 3), and `jaccard` times the soft Jaccard loss."""
    loss = self.detail.sum() / jnp.maximum(self.weight.sum(), 1.0)
    if not jaccard:
      return loss
    overlap, mass, area = (x.sum(0) for x in (self.overlap, self.mass, self.area))
    iou = overlap / jnp.maximum(mass + area - overlap, 1.0)
    present = (area > 0).astype(iou.dtype)
    return loss + jaccard * ((1 - iou) * present).sum() / jnp.maximum(present.sum(), 1.0)


FUSIONS = ("semantic", "mask", "soft", "mean", "detail")
"""Fusions that label pixels by kernels."""


@struct.dataclass
class Labels:
  """What a pixel is told to be, [B, H, W].

  Attributes:
    labels: uint8, of the fused probabilities.
    semantic_labels: uint8.
    detail_labels: uint8; the semantic ones without a detail branch.
    error_probability: float32, calibrated P_ep; without an error branch 1 - max P_sb at the chosen temperature.
    confidence: float32, largest fused probability.
  """

  labels: UInt8[Array, "*B H W"]
  semantic_labels: UInt8[Array, "*B H W"]
  detail_labels: UInt8[Array, "*B H W"]
  error_probability: Float[Array, "*B H W"]
  confidence: Float[Array, "*B H W"]


def label_counts(label: UInt8[Array, "B H W"], num_classes: int) -> Float[Array, "B C"]:
  """Labelled pixels of each class, uint8 [B, H, W] -> float32 [B, C]."""
  flat = label.reshape(len(label), -1).astype(jnp.int32)
  flat = jnp.where(flat == IGNORE, num_classes, flat)
  return jax.vmap(lambda x: jnp.bincount(x, length=num_classes + 1))(flat)[:, :-1].astype(jnp.float32)
