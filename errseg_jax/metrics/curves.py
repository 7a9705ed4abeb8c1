"""Curves of error detection for plots, from the histogram of `errors`: at most 200 points each."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Integer
from scipy import special

from errseg_jax.metrics import errors

MAX_POINTS = 200


def _thin(progress: np.ndarray) -> np.ndarray:
  """Indices that are about evenly spaced in a non-decreasing array of 0..1, both ends included."""
  grid = np.linspace(progress[0], progress[-1], MAX_POINTS - 1)
  return np.unique(np.append(np.searchsorted(progress, grid), progress.size - 1))


def precision_recall_curve(
  hist: Integer[np.ndarray, "2 bins"],
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"], Float[np.ndarray, " K"]]:
  """Precision and recall of flagging errors, from the highest threshold to the lowest.

  Args:
    hist: integer [2, 4096], row 0 correct, row 1 wrong.

  Returns:
    recall and precision in percent, the threshold on the probability, each [K]; K = 0 without
    errors.
  """
  correct, wrong = np.asarray(hist, np.int64)[:, ::-1]
  if not wrong.any():
    return np.zeros(0), np.zeros(0), np.zeros(0)
  used = (correct + wrong) > 0
  hit, flagged = np.cumsum(wrong)[used], np.cumsum(correct + wrong)[used]
  recall, precision = hit / hit[-1], hit / flagged
  keep = _thin(recall)
  threshold = special.expit(errors.BIN_CENTRES[::-1][used])
  return 100 * recall[keep], 100 * precision[keep], threshold[keep]


def flagged_counts(
  hist: Integer[np.ndarray, "2 bins"], thresholds: Float[np.ndarray, " K"]
) -> tuple[Integer[np.ndarray, " K"], ...]:
  """Pixels flagged as errors or not, by whether they are, where P(error) >= t; it acts on bin centres.

  Args:
    hist: integer [2, 4096], row 0 correct, row 1 wrong.
    thresholds: [K], ascending, 0..1.

  Returns:
    true positives, false positives, true negatives, false negatives, int64 [K] each.
  """
  correct, wrong = np.asarray(hist, np.int64)
  first = np.searchsorted(special.expit(errors.BIN_CENTRES), thresholds, side="left")
  below = [np.concatenate([[0], np.cumsum(row)])[first] for row in (correct, wrong)]
  return wrong.sum() - below[1], correct.sum() - below[0], below[0], below[1]


def risk_coverage_curve(
  hist: Integer[np.ndarray, "2 bins"],
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"]]:
  """Error rate of the pixels kept against the share kept, the most confident first.

  Args:
    hist: integer [2, 4096], row 0 correct, row 1 wrong.

  Returns:
    coverage and risk in percent, each [K]; K = 0 without pixels.
  """
  correct, wrong = np.asarray(hist, np.int64)
  used = (correct + wrong) > 0
  if not used.any():
    return np.zeros(0), np.zeros(0)
  kept, errors_kept = np.cumsum(correct + wrong)[used], np.cumsum(wrong)[used]
  coverage = kept / kept[-1]
  keep = _thin(coverage)
  return 100 * coverage[keep], 100 * (errors_kept / kept)[keep]


def reliability_curve(
  hist: Integer[np.ndarray, "2 bins"], num_bins: int = 15
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"], Float[np.ndarray, " K"]]:
  """Predicted probability of error against its frequency.

  Args:
    hist: integer [2, 4096], row 0 correct, row 1 wrong.
    num_bins: equal-width bins of the probability.

  Returns:
    mean probability, frequency of errors and share of all pixels, in percent, of the used bins.
  """
  size, probability, wrong = errors.reliability_bins(np.asarray(hist, np.int64), num_bins)
  used = size > 0
  size, probability, wrong = size[used], probability[used], wrong[used]
  return 100 * probability / size, 100 * wrong / size, 100 * size / max(size.sum(), 1)
