"""Fusion of the frozen result and the detail branch's (P0, Eq. 5 and its soft and learned forms)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from errseg_jax.models.error_branch import disbelief_logit, max_probability_logit

BLIND = ("semantic", "mean", "detail")
"""Fusions that do not ask the error branch."""
FUSIONS = ("semantic", "mask", "soft", "gate", "mean", "detail")
CANDIDATES = (*FUSIONS, "refined")
"""What may be chosen: "refined" is what a cascade makes of its branches itself (`models.cascade.Refine`)."""


def gate_features(
  semantic: Float[Array, "*pixels C"], detail: Float[Array, "*pixels C"], error: Float[Array, "*pixels"]
) -> Float[Array, "*pixels 6"]:
  """What the learned gate looks at, [..., 6].

  The raw error logit, both networks' own doubts, the detail branch's disbelief in the frozen label,
  whether the two agree, and a constant; logits in units of 10.
  """
  labels = semantic.argmax(-1)
  agree = (labels == detail.argmax(-1)).astype(semantic.dtype)
  return jnp.stack(
    [
      error / 10,
      max_probability_logit(semantic) / 10,
      max_probability_logit(detail) / 10,
      disbelief_logit(detail, labels) / 10,
      agree,
      jnp.ones_like(error),
    ],
    -1,
  )


def detail_share(
  semantic: Float[Array, "*pixels C"],
  detail: Float[Array, "*pixels C"],
  error: Float[Array, "*pixels"] | None,
  fusion: str,
  threshold: float | Float[Array, ""] = 0.5,
  gate: Float[Array, "6"] | None = None,
) -> Float[Array, "*pixels"]:
  """Weight of P_db per pixel, [...], 0..1.

  Args:
    semantic: frozen logits [..., C].
    detail: detail logits [..., C].
    error: error logit [...], raw or calibrated; None will do for one of BLIND.
    fusion: "semantic" (0 everywhere), "mask" (E_ep, Eq. 4), "soft" (P_ep), "gate" (learned), "mean" (1/2
      everywhere: plain averaging) or "detail" (1 everywhere).
    threshold: t of Eq. 4.
    gate: weights [6] over `gate_features`.
  """
  if fusion in BLIND:
    share = {"semantic": 0.0, "mean": 0.5, "detail": 1.0}[fusion]
    return jnp.full(semantic.shape[:-1], share, semantic.dtype)
  if error is None:
    raise ValueError(f"fusion {fusion!r} needs the error branch")
  if fusion == "mask":
    return (jax.nn.sigmoid(error) > threshold).astype(error.dtype)
  if fusion == "soft":
    return jax.nn.sigmoid(error)
  if fusion == "gate":
    return jax.nn.sigmoid(gate_features(semantic, detail, error) @ jnp.asarray(gate))
  raise ValueError(f"unknown fusion {fusion!r}; known: {', '.join(FUSIONS)}")


def fuse(
  semantic: Float[Array, "*pixels C"], detail: Float[Array, "*pixels C"], share: Float[Array, "*pixels"]
) -> Float[Array, "*pixels C"]:
  """P_f = share * P_db + (1 - share) * P_sb (Eq. 5), probabilities [..., C]."""
  share = share[..., None]
  return share * jax.nn.softmax(detail) + (1 - share) * jax.nn.softmax(semantic)
