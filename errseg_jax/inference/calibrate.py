"""Calibration of P_ep, so that "0.3" means 30 % wrong."""

from __future__ import annotations

import numpy as np
from scipy import optimize, special

from errseg_jax.metrics.errors import BIN_CENTRES


def fit_platt(hist: np.ndarray) -> tuple[float, float]:
  """Scale and offset of the error logit that minimise the log loss (Platt 1999; temperature and bias).

  Args:
    hist: integer [2, 4096] of `metrics.errors.error_histogram`, of raw logits.

  Returns:
    (scale, offset); (1, 0) where there is no correct or no wrong pixel.
  """
  correct, wrong = np.asarray(hist, float)
  if not correct.any() or not wrong.any():
    return 1.0, 0.0
  total = correct.sum() + wrong.sum()

  def loss(theta):
    z = theta[0] * BIN_CENTRES + theta[1]
    value = wrong @ np.logaddexp(0, -z) + correct @ np.logaddexp(0, z)
    slope = correct * special.expit(z) - wrong * special.expit(-z)
    return value / total, np.array([slope @ BIN_CENTRES, slope.sum()]) / total

  found = optimize.minimize(
    loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0.01, 100.0), (-50.0, 50.0)]
  )
  return float(found.x[0]), float(found.x[1])
