"""What a wrong pixel costs, and which pixels count: losses by name, for any stage that labels pixels.

A stage's loss is `weighted_mean(loss.values(...), given * loss.pixel_weights(...))`, where `given` is what the stage
itself weighs pixels by. Logits of any type are taken to float32 at least. A pixel labelled 255 has loss 0, gradient
0 and weight 0.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, Shaped

from errseg_jax.errors import UserError
from errseg_jax.structs import IGNORE

WEIGHTS, DIAGS, IMAGES = ("raw", "row"), ("one", "confusion"), ("train", "choose")


def weighted_mean(values: Float[Array, "*pixels"], weights: Shaped[Array, "*pixels"]) -> Float[Array, ""]:
  """sum(values * weights) / max(sum(weights), 1)."""
  return (values * weights).sum() / jnp.maximum(weights.sum(), 1.0)


def at_least_float32(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
  """bfloat16 becomes float32; float32 and float64 stay."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def safe_label(label: Integer[Array, "*pixels"]) -> Int[Array, "*pixels"]:
  """An index in any case: 0 where the label is 255."""
  return jnp.where(label == IGNORE, 0, label).astype(jnp.int32)


def pixel_cross_entropy(
  logits: Float[Array, "*pixels C"], label: Integer[Array, "*pixels"]
) -> Float[Array, "*pixels"]:
  """-log softmax(logits)[label] per pixel; 0 where the label is 255.

  Args:
    logits: [..., C].
    label: uint8 [...].
  """
  logits = at_least_float32(logits)
  picked = jnp.take_along_axis(logits, safe_label(label)[..., None], -1)[..., 0]
  return jnp.where(label != IGNORE, jax.nn.logsumexp(logits, -1) - picked, 0.0)


def log_complement(logits: Float[Array, "*pixels C"]) -> Float[Array, "*pixels C"]:
  """log(1 - softmax(logits)) of every class, [..., C]; finite, with finite gradients, for two classes or more.

  Only the largest class can come so close to 1 that 1 - q is lost to rounding: its complement is summed up.
  """
  z = logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True))
  largest = jax.nn.one_hot(z.argmax(-1), z.shape[-1], dtype=bool)
  total = jax.nn.logsumexp(z, -1, keepdims=True)
  others = jax.nn.logsumexp(jnp.where(largest, -jnp.inf, z), -1, keepdims=True)
  q = jnp.where(largest, 0.0, jnp.exp(z - total))
  return jnp.where(largest, others - total, jnp.log1p(-q))


def class_weights(
  shares: Float[np.ndarray, " C"], power: float, frequencies: Float[np.ndarray, " C"] | None = None
) -> tuple[float, ...]:
  """Weights that lift rare classes: (1 / frequency)^power, 1 for a pixel on average.

  power 1 weighs by the inverse frequency, 0 weighs every class alike. A class without a pixel gets the largest
  weight of the others.

  Args:
    shares: of each class among the labelled pixels, [C].
    power: 0..1.
    frequencies: [C], what says how rare a class is; the shares without.
  """
  shares = np.asarray(shares, np.float64)
  rarity = shares if frequencies is None else np.asarray(frequencies, np.float64)
  present = rarity[rarity > 0]
  if not len(present):
    return (1.0,) * len(shares)
  weights = (np.median(present) / np.maximum(rarity, present.min())) ** power
  return tuple(float(w) for w in weights / (weights * shares).sum())


def label_weights(
  label: Integer[Array, "*pixels"], weights: tuple[float, ...], dtype: Any
) -> Float[Array, "*pixels"]:
  """The weight of each pixel's class, 1 without weights; 0 where the label is 255."""
  valid = label != IGNORE
  if not weights:
    return valid.astype(dtype)
  return valid * jnp.asarray(weights, dtype)[safe_label(label)]


def hardest(
  loss: Float[Array, "B H W"], label: Integer[Array, "B H W"], share: float
) -> Bool[Array, "B H W"]:
  """True for the `share` of each image's valid pixels with the largest loss, [B, H, W]; equal ones go together.

  By image, so that it does not matter which images a device holds.
  """
  flat = jax.lax.stop_gradient(jnp.where(label == IGNORE, -jnp.inf, loss)).reshape(len(loss), -1)
  count = jnp.ceil(share * (label != IGNORE).sum((1, 2))).astype(jnp.int32)
  ranked = -jnp.sort(-flat, -1)
  last = jnp.take_along_axis(ranked, jnp.maximum(count - 1, 0)[:, None], -1)
  return (flat >= last).reshape(loss.shape) & (label != IGNORE)


def check_field(right: bool, loss: str, key: str, value: Any, must: str) -> None:
  """Refuses a field's value.

  Raises:
    UserError: it is not `right`; says what it `must` be.
  """
  if not right:
    raise UserError(f"pixel loss {loss!r}: {key}={value!r} must be {must}")


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
  """-log q_y of every valid pixel; the others change either what a pixel costs or how much it counts."""

  @property
  def wants_confusion(self) -> bool:
    """`values` must be given a confusion matrix."""
    return False

  def values(
    self,
    logits: Float[Array, "*pixels C"],
    label: Integer[Array, "*pixels"],
    confusion: Float[Array, "C C"] | None = None,
  ) -> Float[Array, "*pixels"]:
    """Loss of each pixel, [...]; 0 where ignored.

    Args:
      logits: [..., C].
      label: uint8 [...].
      confusion: [C, C], row-normalised, rows = truth; a row of 0 where a class is absent.

    Raises:
      ValueError: a matrix is wanted and there is none, or one of another size.
    """
    return pixel_cross_entropy(logits, label)

  def pixel_weights(
    self, values: Float[Array, "B H W"], label: Integer[Array, "B H W"]
  ) -> Float[Array, "B H W"]:
    """What each pixel counts, [B, H, W], by its loss and label; 0 where ignored. No gradient flows through it."""
    return (label != IGNORE).astype(values.dtype)


PLAIN = CrossEntropy()


@dataclasses.dataclass(frozen=True)
class Confusion(CrossEntropy):
  """Cross-entropy that also pushes down the classes the true one is confused with (P1, Geng et al. 2018).

  L = -c_ii log q_i - strength * sum_{j != i} c_ij log(1 - q_j), i the label, c from the confusion matrix N of a
  trained network. Its gradient is the paper's Eq. 4; Eq. 2 and 3 carry a sign error.

  Attributes:
    strength: lambda.
    weights: c_ij: "raw", N_ij; "row", N_ij scaled so that they add up to 1 (0 for a row without confusion).
    diag: c_ii: "one", 1; "confusion", N_ii.
    refresh: steps after which N is counted anew; 0 keeps that of the stage's start.
    on: images that N is counted on: "train", "choose".
  """

  strength: float = 5.0
  weights: str = "raw"
  diag: str = "one"
  refresh: int = 0
  on: str = "train"

  def __post_init__(self):
    check_field(0 <= self.strength < math.inf, "confusion", "strength", self.strength, "0 or more")
    check_field(self.refresh >= 0, "confusion", "refresh", self.refresh, "0 (never) or more steps")
    for key, known in (("weights", WEIGHTS), ("diag", DIAGS), ("on", IMAGES)):
      value = getattr(self, key)
      check_field(value in known, "confusion", key, value, f"one of {', '.join(known)}")

  @property
  def wants_confusion(self) -> bool:
    return self.strength > 0 or self.diag == "confusion"

  def values(
    self,
    logits: Float[Array, "*pixels C"],
    label: Integer[Array, "*pixels"],
    confusion: Float[Array, "C C"] | None = None,
  ) -> Float[Array, "*pixels"]:
    loss = pixel_cross_entropy(logits, label)
    if not self.wants_confusion:
      return loss
    logits, size = at_least_float32(logits), logits.shape[-1]
    if confusion is None:
      raise ValueError("pixel loss 'confusion' needs the confusion matrix of a trained network, and got none")
    if confusion.shape != (size, size):
      raise ValueError(
        f"pixel loss 'confusion': a confusion matrix of shape {confusion.shape} for {size} classes"
      )
    matrix = jax.lax.stop_gradient(jnp.asarray(confusion, logits.dtype))
    own = safe_label(label)
    if self.diag == "confusion":
      loss = jnp.diagonal(matrix)[own] * loss
    if not self.strength:
      return loss
    wrong = -(self.off_diagonal(matrix)[own] * log_complement(logits)).sum(-1)
    return loss + self.strength * jnp.where(label != IGNORE, wrong, 0.0)

  def off_diagonal(self, matrix: Float[Array, "C C"]) -> Float[Array, "C C"]:
    """c_ij of j != i, 0 where j = i; [C, C]."""
    c = jnp.where(jnp.eye(len(matrix), dtype=bool), 0.0, matrix)
    if self.weights == "raw":
      return c
    total = c.sum(-1, keepdims=True)
    return c / jnp.where(total > 0, total, 1.0)


@dataclasses.dataclass(frozen=True)
class Focal(CrossEntropy):
  """-(1 - q_y)^gamma log q_y: pixels that are right already cost little (Lin et al., ICCV 2017).

  Attributes:
    gamma: 0 is cross-entropy.
  """

  gamma: float = 2.0

  def __post_init__(self):
    check_field(0 <= self.gamma < math.inf, "focal", "gamma", self.gamma, "0 or more")

  def values(
    self,
    logits: Float[Array, "*pixels C"],
    label: Integer[Array, "*pixels"],
    confusion: Float[Array, "C C"] | None = None,
  ) -> Float[Array, "*pixels"]:
    loss = pixel_cross_entropy(logits, label)
    # Above 0, where a gamma below 1 has no finite slope.
    wrong = jnp.maximum(-jnp.expm1(-loss), jnp.finfo(loss.dtype).tiny)
    return wrong**self.gamma * loss


@dataclasses.dataclass(frozen=True)
class Ohem(CrossEntropy):
  """Online hard example mining: cross-entropy of the pixels that are not right yet (Shrivastava et al., CVPR 2016).

  Attributes:
    threshold: of q_y; below it a pixel counts.
    share: of each image's valid pixels, the hardest of them, that count in any case.
  """

  threshold: float = 0.7
  share: float = 1 / 16

  def __post_init__(self):
    check_field(0 < self.threshold <= 1, "ohem", "threshold", self.threshold, "above 0 and at most 1")
    check_field(0 < self.share <= 1, "ohem", "share", self.share, "above 0 and at most 1")

  def pixel_weights(
    self, values: Float[Array, "B H W"], label: Integer[Array, "B H W"]
  ) -> Float[Array, "B H W"]:
    kept = (values > -math.log(self.threshold)) | hardest(values, label, self.share)
    return (kept & (label != IGNORE)).astype(values.dtype)


@dataclasses.dataclass(frozen=True)
class MaxPooling(CrossEntropy):
  """Loss max-pooling: pixels weigh as is worst for the network, within bounds (Rota Bulo et al., CVPR 2017).

  With n valid pixels in an image, m = support * n and 1/p + 1/q = 1, the paper's weights are those of
  max sum_i w_i l_i, ||w||_p <= n^(-1/q), ||w||_inf <= n^(-1/q) m^(-1/p). Here they come times n, so that equal losses
  get weight 1: mean(w^p) <= 1, w <= support^(-1/p). The k largest losses get that largest weight, the others share
  what is left of the norm in proportion to l^(q-1).

  Attributes:
    p: of the norm, above 1; towards infinity every pixel counts alike.
    support: share of the pixels that must count at least, 0..1; 1 makes all weights equal.
  """

  p: float = 1.7
  support: float = 0.25

  def __post_init__(self):
    check_field(1 < self.p < math.inf, "max_pooling", "p", self.p, "above 1")
    check_field(0 < self.support <= 1, "max_pooling", "support", self.support, "above 0 and at most 1")

  def pixel_weights(
    self, values: Float[Array, "B H W"], label: Integer[Array, "B H W"]
  ) -> Float[Array, "B H W"]:
    valid = label != IGNORE
    loss = jax.lax.stop_gradient(jnp.where(valid, values, 0.0)).reshape(len(values), -1)
    loss = loss / jnp.maximum(loss.max(-1, keepdims=True), jnp.finfo(loss.dtype).tiny)  # the scale is free
    q = self.p / (self.p - 1)
    powers = jnp.sort(loss**q, -1)[:, ::-1]
    tail = jnp.cumsum(powers[:, ::-1], -1)[:, ::-1]  # of a pixel and all with smaller losses
    m = self.support * valid.sum((1, 2)).astype(loss.dtype)[:, None]
    rank = jnp.arange(loss.shape[-1])[None]
    # A pixel would get more than the largest weight; once one does not, none after it does.
    k = ((m - rank) * powers > tail).sum(-1, keepdims=True)
    rest = jnp.where(rank < k, 0.0, powers).sum(-1, keepdims=True)
    factor = jnp.maximum(m - k, 0.0) / jnp.where(rest > 0, rest, 1.0)
    share = jnp.where(rest > 0, factor ** (1 / self.p) * loss ** (q - 1), loss > 0)
    weights = self.support ** (-1 / self.p) * jnp.minimum(share, 1.0)
    weights = jnp.where(powers[:, :1] > 0, weights, 1.0)  # all losses 0 are equal losses
    return weights.reshape(values.shape) * valid


@dataclasses.dataclass(frozen=True)
class InverseFrequency(CrossEntropy):
  """Cross-entropy in which a class weighs by 1 / its share of the labelled pixels.

  Attributes:
    class_weights: weight of each class, counted from the labels of the stage's training images.
  """

  class_weights: tuple[float, ...] = ()

  @classmethod
  def counted(cls, counts: Shaped[np.ndarray, "N C"]) -> tuple[float, ...]:
    """The class weights, 1 for a pixel on average, from labelled pixels by image and class [N, C]."""
    return class_weights(counts.sum(0) / max(counts.sum(), 1), 1.0)

  def pixel_weights(
    self, values: Float[Array, "B H W"], label: Integer[Array, "B H W"]
  ) -> Float[Array, "B H W"]:
    if not self.class_weights:
      raise ValueError(f"{type(self).__name__} needs class_weights: count them in the training labels")
    return label_weights(label, self.class_weights, values.dtype)


@dataclasses.dataclass(frozen=True)
class MedianFrequency(InverseFrequency):
  """The same by 1 / a class's share of the labelled pixels of the images that it is in (Eigen & Fergus, ICCV 2015).

  A class that fills the few images it occurs in is not lifted as if it were small.
  """

  @classmethod
  def counted(cls, counts: Shaped[np.ndarray, "N C"]) -> tuple[float, ...]:
    seen = ((counts > 0) * counts.sum(1, keepdims=True)).sum(0)
    return class_weights(counts.sum(0) / max(counts.sum(), 1), 1.0, counts.sum(0) / np.maximum(seen, 1))


PIXEL_LOSSES: dict[str, type[CrossEntropy]] = {
  "cross_entropy": CrossEntropy,
  "confusion": Confusion,
  "focal": Focal,
  "ohem": Ohem,
  "max_pooling": MaxPooling,
  "inverse_frequency": InverseFrequency,
  "median_frequency": MedianFrequency,
}
