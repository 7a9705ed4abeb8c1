"""The CRF over the labels that a network hands out."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from errseg_jax.models.crf import GuidanceCRF, mean_field
from errseg_jax.structs import Outputs


def log_scores(probabilities: jax.Array) -> jax.Array:
  """Probabilities as scores in log space, float32."""
  p = probabilities.astype(jnp.float32)
  return jnp.log(jnp.maximum(p, jnp.finfo(jnp.float32).tiny))


def smoothed(
  crf: GuidanceCRF, tuned: dict[str, Any], image: jax.Array, probabilities: jax.Array, outputs: Outputs
) -> tuple[jax.Array, jax.Array]:
  """Class scores after the CRF, with the classes of the image where the network has guidance.

  Args:
    crf: its settings; an alpha or lambda that is None is that of `tuned`.
    tuned: of `inference.tuned.tuned_arrays`.
    image: uint8 [B, H, W, 3].
    probabilities: P_f [B, H, W, C], of `fused_probabilities`.
    outputs: of the forward pass.

  Returns:
    (scores float32 [B, H, W, C] in log space; share of the labels that each iteration changed, [iterations]).
  """
  crf = dataclasses.replace(
    crf, **{k: tuned[k] for k in ("alpha", "lam") if getattr(crf, k) is None and k in tuned}
  )
  return mean_field(crf, image, log_scores(probabilities), outputs.presence, tuned.get("compatibility"))
