"""One temperature for the network's softmax, fitted on streamed sums."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from scipy import interpolate, optimize

from errseg_jax.structs import IGNORE

INVERSES = 2.0 ** np.linspace(-4, 2, 13)  # 1 / T of the grid: T from 16 down to 1/4


def nll_slopes(logits: Float[Array, "B H W C"], label: UInt8[Array, "B H W"]) -> Float[Array, "13"]:
  """Slope of the summed negative log-likelihood of softmax(b logits) in b, at each b of INVERSES.

  It is the sum over pixels of E[logit] - logit[label], the mean under softmax(b logits), and rises with b: the
  likelihood is largest where it passes zero. Slopes of batches add up.

  Args:
    logits: [B, H, W, C].
    label: uint8 [B, H, W], 255 = ignore.

  Returns:
    float32 [13].
  """
  valid = label != IGNORE
  safe = jnp.where(valid, label, 0).astype(jnp.int32)
  # From the label's own logit: the sums then cancel as little as they can.
  apart = logits.astype(jnp.float32) - jnp.take_along_axis(logits, safe[..., None], -1).astype(jnp.float32)

  def slope(inverse):
    mean = (jax.nn.softmax(inverse * apart) * apart).sum(-1)
    return jnp.where(valid, mean, 0.0).sum()

  return jax.lax.map(slope, jnp.array(INVERSES, jnp.float32))


def fit_temperature(slopes: Float[np.ndarray, "13"]) -> float:
  """T of the largest likelihood of softmax(logits / T), between the points of the grid by monotone cubic
  interpolation of the slopes over log T; the end of the grid where it lies beyond.

  Args:
    slopes: [13], `nll_slopes` added up; all zero (no pixel) gives 1.

  Source: Guo et al., ICML 2017.
  """
  slopes = np.asarray(slopes, np.float64)
  if not slopes.any():
    return 1.0
  if slopes[0] >= 0:
    return float(1 / INVERSES[0])
  if slopes[-1] <= 0:
    return float(1 / INVERSES[-1])
  curve = interpolate.PchipInterpolator(np.log(INVERSES), slopes)
  return float(np.exp(-optimize.brentq(curve, *np.log(INVERSES[[0, -1]]))))
