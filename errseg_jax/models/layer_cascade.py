"""Layer cascading (Li et al., CVPR 2017) with the detail branch's decoder, as P0's Table 3 compares it."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from errseg_jax.models.detail_branch import DetailBranch
from errseg_jax.models.error_branch import max_probability_logit
from errseg_jax.models.resize import resize
from errseg_jax.structs import Features


class LayerCascade(DetailBranch):
  """Decoders in a row: each relabels the pixels that everything before it was unsure of.

  Attributes:
    decoders: how many, beside the frozen network; 2 make the three stages of P0's Table 3.
    rho: a pixel goes on where the largest probability of every stage before is at most that.
  """

  decoders: int = 2
  rho: float = 0.95

  @nn.compact
  def __call__(  # type: ignore[override]
    self, image: jax.Array, features: Features, semantic: jax.Array, train: bool = False
  ) -> tuple[jax.Array, tuple[tuple[jax.Array, jax.Array], ...]]:
    """New class scores, and those of every stage.

    Args:
      image: uint8 [B, H, W, 3].
      features: of the frozen network.
      semantic: its logits at the label's size, [B, H, W, C].
      train: dropout on.

    Returns:
      (logits [B, H, W, C] of the last stage that a pixel reached, ((logits of a decoder, bool [B, H, W]: the pixel
      reached it), ...)).
    """
    fields = (
      "num_classes",
      "features",
      "strides",
      "encoder",
      "encoder_features",
      "residual",
      "gate",
      "dropout",
      "norm",
    )
    decoder = {name: getattr(self, name) for name in fields}
    logits, reached = semantic, jnp.ones(semantic.shape[:-1], bool)
    stages = []
    for number in range(2, 2 + self.decoders):
      # max P <= rho, as logits.
      reached &= max_probability_logit(logits) >= math.log((1 - self.rho) / self.rho)
      branch = DetailBranch(**decoder, dtype=self.dtype, name=f"stage{number}")
      new = branch(image, features, logits, train)
      stages.append((new, reached))
      # Each decoder learns its own pixels: what comes after it does not teach it.
      logits = jax.lax.stop_gradient(jnp.where(reached[..., None], new, logits))
      features = dataclasses.replace(features, logits=resize(logits, features.logits.shape[1:3]))
    return logits, tuple(stages)
