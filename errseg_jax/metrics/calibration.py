"""Calibration of P_ep, so that "0.3" means 30 % wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer
from scipy import optimize, special

from errseg_jax.metrics.errors import BIN_CENTRES

MAX_KNOTS = 64  # of the isotonic table
TILT = 1e-3  # least slope of the isotonic map, so that float32 keeps apart what was apart


@dataclasses.dataclass(frozen=True)
class Calibration:
  """Raw error logit -> calibrated error logit, a strictly increasing map: every ranking score stays.

  Attributes:
    scale: the logit is first taken to scale * logit + offset.
    offset: see scale.
    knots: (from, to) of logits, both ascending: between them the map is linear, beyond them it goes on with slope
      1; () = none, and at most MAX_KNOTS.
  """

  scale: float = 1.0
  offset: float = 0.0
  knots: tuple[tuple[float, float], ...] = ()

  def arrays(self) -> dict[str, Float[Array, "..."]]:
    """The numbers, as arguments of `calibrated`; any number of knots has one shape."""
    out = {"scale": jnp.float32(self.scale), "offset": jnp.float32(self.offset)}
    if self.knots:
      knots = self.knots + self.knots[-1:] * (MAX_KNOTS - len(self.knots))
      out["knots"] = jnp.array(knots, jnp.float32)
    return out


IDENTITY = Calibration()


def calibrated(
  error: Float[Array, "*pixels"], arrays: Mapping[str, Float[Array, "..."]]
) -> Float[Array, "*pixels"]:
  """Raw error logit [...] -> calibrated error logit [...], by `Calibration.arrays`."""
  z = arrays["scale"] * error + arrays["offset"]
  if "knots" not in arrays:
    return z
  x, y = arrays["knots"].T
  return jnp.interp(z, x, y) + jnp.minimum(z - x[0], 0.0) + jnp.maximum(z - x[-1], 0.0)


def fit_platt(hist: Integer[np.ndarray, "2 bins"]) -> Calibration:
  """Scale and offset of the error logit that minimise the log loss (Platt 1999; temperature and bias)."""
  correct, wrong = np.asarray(hist, float)
  total = correct.sum() + wrong.sum()

  def loss(theta):
    z = theta[0] * BIN_CENTRES + theta[1]
    value = wrong @ np.logaddexp(0, -z) + correct @ np.logaddexp(0, z)
    slope = correct * special.expit(z) - wrong * special.expit(-z)
    return value / total, np.array([slope @ BIN_CENTRES, slope.sum()]) / total

  found = optimize.minimize(
    loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0.01, 100.0), (-50.0, 50.0)]
  )
  return Calibration(float(found.x[0]), float(found.x[1]))


def fit_isotonic(hist: Integer[np.ndarray, "2 bins"]) -> Calibration:
  """The increasing map from error logit to the frequency of errors, by pooling adjacent violators of the histogram.

  A step function would tie all pixels of one step. So each step is one knot, at its pixels' mean logit, and the map
  is linear in logits from knot to knot: it meets the frequencies at the knots and ranks as before. Steps that are
  short of pixels are pooled (`_pool`).

  Source: Zadrozny and Elkan, KDD 2002.
  """
  counts = np.asarray(hist, np.float64)
  counts, z = counts[:, counts.sum(0) > 0], BIN_CENTRES[counts.sum(0) > 0]
  size = counts.sum(0)
  starts = optimize.isotonic_regression(counts[1] / size, weights=size).blocks[:-1]
  starts = _pool(np.add.reduceat(counts, starts, 1), starts)
  sums = np.add.reduceat(np.stack([*counts, size * z]), starts, 1)
  x = sums[2] / (sums[0] + sums[1])
  y = (1 - TILT) * (np.log(sums[1]) - np.log(sums[0])) + TILT * x
  return Calibration(knots=tuple((float(a), float(b)) for a, b in zip(x, y, strict=True)))


def _pool(blocks: np.ndarray, starts: np.ndarray) -> np.ndarray:
  """Starts of at most MAX_KNOTS runs of blocks with about equal shares of the correct and of the wrong pixels.

  The first run has a wrong pixel and the last a correct one: their logits are finite. Frequencies rise from block
  to block, hence from run to run.
  """
  share = (blocks / blocks.sum(1, keepdims=True)).sum(0)
  run = np.floor((share.cumsum() - share / 2) * (MAX_KNOTS / 2)).astype(int)
  errors_begin, correct_end = np.flatnonzero(blocks[1])[0], np.flatnonzero(blocks[0])[-1]
  run[: errors_begin + 1] = run[errors_begin]
  run[correct_end:] = run[correct_end]
  return starts[np.flatnonzero(np.diff(run, prepend=-1))]


CALIBRATIONS = {"platt": fit_platt, "isotonic": fit_isotonic, "none": lambda hist: IDENTITY}


def fit(kind: str, hist: Integer[np.ndarray, "2 bins"]) -> Calibration:
  """The calibration that a histogram of raw error logits asks for.

  Args:
    kind: one of CALIBRATIONS; "none" keeps P_ep raw.
    hist: integer [2, 4096] of `metrics.errors.error_histogram`, row 0 correct, row 1 wrong.

  Returns:
    The identity where there is no correct or no wrong pixel.
  """
  return CALIBRATIONS[kind](hist) if np.asarray(hist).any(1).all() else IDENTITY
