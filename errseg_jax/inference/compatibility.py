"""The CRF's compatibility of classes, learned while the network stays as it is (piecewise training)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from errseg_jax.models.crf import GuidanceCRF, mean_field
from errseg_jax.structs import IGNORE


@struct.dataclass
class Candidates:
  """What a network says of some images, and what they show.

  Attributes:
    image: [B, H, W, 3], 0..255.
    scores: logits or log-probabilities [B, H, W, C]; any float type.
    label: [B, H, W], 255 = ignore.
    presence: logits of the classes' presence [B, C]; None without.
  """

  image: jax.Array
  scores: jax.Array
  label: jax.Array
  presence: jax.Array | None = None


def potts(num_classes: int) -> jax.Array:
  """The penalty [C, C] of every pair of labels alike, where the learning starts."""
  return 1 - jnp.eye(num_classes)


def fit_compatibility(
  crf: GuidanceCRF, batches: Iterable[Candidates], learning_rate: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
  """Minimises the cross-entropy of the mean field's labels, one Adam step a batch.

  Args:
    crf: with at least one iteration and alpha above 0; its compatibility is taken as "learned".
    batches: of images that the network did not train on, all of one size.
    learning_rate: of Adam.

  Returns:
    (penalties, float32 [C, C]; loss at each step).

  Raises:
    ValueError: no batch.
  """
  crf = dataclasses.replace(crf, compatibility="learned")
  tx = optax.adam(learning_rate)

  @jax.jit
  def step(matrix, state, batch):
    value, slope = jax.value_and_grad(lambda m: loss(crf, m, batch))(matrix)
    change, state = tx.update(slope, state)
    return optax.apply_updates(matrix, change), state, value

  matrix, state, losses = None, None, []
  for batch in batches:
    if matrix is None:
      matrix = potts(batch.scores.shape[-1])
      state = tx.init(matrix)
    matrix, state, value = step(matrix, state, batch)
    losses.append(value)
  if matrix is None:
    raise ValueError("fit_compatibility got no batch")
  return np.asarray(matrix), np.array(losses, np.float32)


def loss(crf: GuidanceCRF, matrix: jax.Array, batch: Candidates) -> jax.Array:
  """Mean cross-entropy over the labelled pixels of a batch; 0 without any."""
  scores, _ = mean_field(crf, batch.image, batch.scores, batch.presence, matrix)
  valid = batch.label != IGNORE
  label = jnp.where(valid, batch.label, 0).astype(jnp.int32)
  each = optax.softmax_cross_entropy_with_integer_labels(scores, label)
  return jnp.where(valid, each, 0.0).sum() / jnp.maximum(valid.sum(), 1)
