"""The loss of the subnets for groups of confused classes (P1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8

from errseg_jax.errors import UserError
from errseg_jax.losses.jaccard import check_jaccard, with_jaccard
from errseg_jax.metrics.class_groups import aggregated, row_normalised
from errseg_jax.models.confusion_groups import group_label
from errseg_jax.pixel_losses import PLAIN, CrossEntropy, InverseFrequency, weighted_mean
from errseg_jax.structs import Outputs


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
    self,
    outputs: Outputs,
    label: UInt8[Array, "B H W"],
    confusion: Sequence[Float[Array, "rows rows"]] | None = None,
  ) -> Float[Array, ""]:
    """The loss; `confusion`: [K_g + 1, K_g + 1] of each group where the pixel loss wants it."""
    losses = []
    for number, (logits, group) in enumerate(zip(outputs.subnets, self.groups, strict=True)):
      own = group_label(label, group)
      values = self.pixel.values(logits, own, None if confusion is None else confusion[number])
      loss = weighted_mean(values, self.pixel.pixel_weights(values, own))
      losses.append(with_jaccard(loss, logits, own, self.jaccard))
    return jnp.stack(losses).sum()

  def matrices(self, counts: Shaped[np.ndarray, "C C"]) -> tuple[Float[np.ndarray, "rows rows"], ...]:
    """What `confusion` is for pixels counted by truth and label, [C, C]."""
    return tuple(row_normalised(aggregated(counts, group)).astype(np.float32) for group in self.groups)
