"""Scores of error detection, all from one histogram.

A score says how likely a pixel's label is wrong. It is handled as a logit z of a value in (0, 1),
counted in bins that are uniform in z, apart for correct and for wrong pixels. Every score below is
a function of these counts: memory does not grow with the data, and counts of batches add up.
Pixels of one bin are ties. On the host add up in int64; percentages are 0..100, None is undefined.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, Shaped
from scipy import special

Z_LIMIT = 16.0
NUM_BINS = 4096
BIN_CENTRES = (np.arange(NUM_BINS) + 0.5) * (2 * Z_LIMIT / NUM_BINS) - Z_LIMIT
IMAGE_SCORES = ("AUROC", "AUPR_error", "FPR95")

Scores = dict[str, float | None]


def baseline_logits(
  semantic_logits: Float[Array, "*pixels C"], temperature: float | Float[Array, ""] = 1.0
) -> dict[str, Float[Array, "*pixels"]]:
  """Error scores that the network gives for free, as logits, safe for any confidence.

  max_probability: logit(1 - p1) = logsumexp(other logits) - max logit.
  temperature: the same of logits / temperature; with two classes it ranks as max_probability does.
  entropy: logit of the entropy / log C.
  margin: logit(1 - (p1 - p2)), p1 and p2 the two largest probabilities.

  Args:
    semantic_logits: [..., C] with C >= 2.
    temperature: of `metrics.temperature.fit_temperature`.

  Returns:
    name -> float32 [...].
  """
  logits = semantic_logits.astype(jnp.float32)
  num_classes = logits.shape[-1]
  tiny = jnp.finfo(jnp.float32).tiny
  log_p = jax.nn.log_softmax(logits)
  is_top = jax.nn.one_hot(jnp.argmax(logits, -1), num_classes, dtype=bool)
  others = jnp.where(is_top, -jnp.inf, logits)
  top, second = jnp.max(logits, -1), jnp.max(others, -1)
  z0 = jax.nn.logsumexp(others, axis=-1) - top
  entropy = -jnp.sum(jnp.exp(log_p) * log_p, -1) / np.log(num_classes)
  p1 = jax.nn.sigmoid(-z0)
  p2_over_p1 = jnp.exp(second - top)
  gap = -p1 * jnp.expm1(second - top)
  closeness = jax.nn.sigmoid(z0) + p1 * p2_over_p1
  return {
    "max_probability": z0,
    "temperature": jax.nn.logsumexp(others / temperature, axis=-1) - top / temperature,
    "entropy": jnp.log(jnp.maximum(entropy, tiny)) - jnp.log(jnp.maximum(1 - entropy, tiny)),
    "margin": jnp.log(jnp.maximum(closeness, tiny)) - jnp.log(jnp.maximum(gap, tiny)),
  }


def _bins(z: jax.Array) -> jax.Array:
  position = (z.astype(jnp.float32) + Z_LIMIT) * (NUM_BINS / (2 * Z_LIMIT))
  return jnp.clip(jnp.floor(position), 0, NUM_BINS - 1).astype(jnp.int32)


def _row_counts(rows: jax.Array, z: jax.Array, keep: jax.Array, num_rows: int) -> jax.Array:
  cells = num_rows * NUM_BINS
  cell = jnp.where(keep, rows * NUM_BINS + _bins(z), cells)
  counts = jnp.bincount(cell.ravel(), length=cells + 1)[:-1]
  return counts.reshape(num_rows, NUM_BINS).astype(jnp.int32)


def error_histogram(
  z: Float[Array, " B *pixels"], is_error: Bool[Array, " B *pixels"], valid: Bool[Array, " B *pixels"]
) -> Int[Array, "B 2 bins"]:
  """Counts correct and wrong pixels of each image by error score.

  Args:
    z: float [B, H, W], logit of the error score; beyond +-16 it counts in the outermost bin.
    is_error: bool [B, H, W], whether the label is wrong.
    valid: bool [B, H, W], False = ignored.

  Returns:
    int32 [B, 2, 4096]: row 0 correct, row 1 wrong. Its sum over B is the pooled histogram.
  """
  batch = z.shape[0]
  image = jnp.arange(batch, dtype=jnp.int32).reshape((batch,) + (1,) * (z.ndim - 1))
  rows = 2 * image + is_error.astype(jnp.int32)
  return _row_counts(rows, z, valid, 2 * batch).reshape(batch, 2, NUM_BINS)


def hard_histogram(
  z: Float[Array, " B *pixels"], is_hard: Bool[Array, " B *pixels"], valid: Bool[Array, " B *pixels"]
) -> Int[Array, "B bins"]:
  """Counts hard errors (wrong and confident) by error score: int32 [B, 4096] of [B, H, W]."""
  batch = z.shape[0]
  image = jnp.arange(batch, dtype=jnp.int32).reshape((batch,) + (1,) * (z.ndim - 1))
  return _row_counts(jnp.broadcast_to(image, z.shape), z, valid & is_hard, batch)


def _percent(numerator: float, denominator: float) -> float | None:
  return float(100 * numerator / denominator) if denominator > 0 else None


def _auroc(correct: np.ndarray, wrong: np.ndarray) -> float | None:
  below = np.cumsum(correct) - correct
  ordered = np.sum(wrong * (below + 0.5 * correct))
  return _percent(ordered, float(correct.sum()) * float(wrong.sum()))


def _average_precision(positive: np.ndarray, negative: np.ndarray) -> float | None:
  """Average precision; both rows from the most to the least positive bin."""
  if not positive.any() or not negative.any():
    return None
  hits = np.cumsum(positive)
  precision = hits / np.maximum(hits + np.cumsum(negative), 1)
  return _percent(np.sum(positive * precision), positive.sum())


def _fpr95(correct: np.ndarray, wrong: np.ndarray) -> float | None:
  if not correct.any() or not wrong.any():
    return None
  accepted = np.cumsum(correct)
  cut = np.searchsorted(accepted, 0.95 * accepted[-1])
  return _percent(wrong[: cut + 1].sum(), wrong.sum())


def _aurc(correct: np.ndarray, wrong: np.ndarray) -> float | None:
  """Mean over k of the error rate of the k most confident pixels, expected over orders of ties.

  Inside a bin of m pixels, m1 wrong, after k0 pixels with e0 wrong, the risk at k0 + j is
  (e0 + j r) / (k0 + j) with r = m1 / m; its sum over j is r m + (e0 - r k0) (H(k0 + m) - H(k0)).
  """
  size = correct + wrong
  wrong, size = wrong[size > 0], size[size > 0]
  pixels, errors = np.cumsum(size), np.cumsum(wrong)
  rate, before, errors_before = wrong / size, pixels - size, errors - wrong
  harmonic = special.digamma(pixels + 1.0) - special.digamma(before + 1.0)
  return _percent(np.sum(wrong + (errors_before - rate * before) * harmonic), size.sum())


def _augrc(correct: np.ndarray, wrong: np.ndarray) -> float | None:
  """Area under (coverage, wrong accepted pixels / all pixels)."""
  size = correct + wrong
  errors = np.cumsum(wrong)
  return _percent(np.sum(size * (errors - 0.5 * wrong)), float(size.sum()) ** 2)


def reliability_bins(
  hist: Integer[np.ndarray, "2 bins"], num_bins: int
) -> tuple[Shaped[np.ndarray, " K"], Shaped[np.ndarray, " K"], Shaped[np.ndarray, " K"]]:
  """Pixels, summed probability and errors in equal-width bins of sigmoid(z)."""
  probability = special.expit(BIN_CENTRES)
  index = np.minimum((probability * num_bins).astype(int), num_bins - 1)
  size = hist.sum(0)
  return (
    np.bincount(index, size, num_bins),
    np.bincount(index, size * probability, num_bins),
    np.bincount(index, hist[1], num_bins),
  )


def _ece(hist: np.ndarray) -> float | None:
  size, probability, wrong = reliability_bins(hist, 15)
  return _percent(np.abs(probability - wrong).sum(), size.sum())


def error_scores(hist: Integer[np.ndarray, "2 bins"]) -> Scores:
  """Threshold-free scores of error detection, over all pixels of the histogram.

  AUROC: a wrong pixel scores above a correct one (a tie counts half).
  AUPR_error, AUPR_success: average precision with the wrong, or the correct, pixels as positives.
  FPR95: positives are the correct pixels, accepted from the most confident on: the share of wrong
    pixels accepted once 95 % of the correct ones are.
  AURC: error rate of the k most confident pixels, mean over k. AUGRC: area under coverage against
    wrong accepted pixels / all pixels.
  ECE: 15 equal-width bins of sigmoid(z) against the frequency of errors.
  rate: share of wrong pixels.

  Args:
    hist: integer [2, 4096], row 0 correct, row 1 wrong.

  Returns:
    name -> percent, None where undefined (no wrong or no correct pixel).

  Sources: Geifman et al., ICLR 2019 (AURC); Traub et al., NeurIPS 2024 (AUGRC); Guo et al., ICML
  2017 (ECE); Corbiere et al., NeurIPS 2019 (the others).
  """
  hist = np.asarray(hist, np.int64)
  correct, wrong = hist
  return {
    "AUROC": _auroc(correct, wrong),
    "AUPR_error": _average_precision(wrong[::-1], correct[::-1]),
    "AUPR_success": _average_precision(correct, wrong),
    "FPR95": _fpr95(correct, wrong),
    "AURC": _aurc(correct, wrong),
    "AUGRC": _augrc(correct, wrong),
    "ECE": _ece(hist),
    "rate": _percent(wrong.sum(), hist.sum()),
  }


def _first_flagged(t: float) -> int:
  return int(np.searchsorted(BIN_CENTRES, special.logit(t), side="right"))


def threshold_scores(
  hist: Integer[np.ndarray, "2 bins"], hard_hist: Integer[np.ndarray, " bins"], t: float
) -> Scores:
  """Scores of the mask P(error) > t.

  Args:
    hist: integer [2, 4096], row 0 correct, row 1 wrong.
    hard_hist: integer [4096], the hard errors among the wrong pixels.
    t: 0..1; it acts on bin centres, so it is exact to 1/256 in z.

  Returns:
    t, and in percent: IoU of the error class, precision, recall, hard_recall (hard errors flagged /
    hard errors).
  """
  rows = np.stack([*np.asarray(hist, np.int64), np.asarray(hard_hist, np.int64)], -1)
  first = _first_flagged(t)
  return {"t": float(t), **mask_scores(np.stack([rows[:first].sum(0), rows[first:].sum(0)]))}


def recall_at(hist: Integer[np.ndarray, "2 bins"], share: float) -> float | None:
  """Percent of the wrong pixels among the `share` percent of all pixels with the highest score.

  Within the bin at the border, pixels count evenly.

  Args:
    hist: integer [2, 4096], row 0 correct, row 1 wrong.
    share: percent of the pixels, 0..100.

  Returns:
    None without a wrong pixel.
  """
  correct, wrong = np.asarray(hist, np.float64)[:, ::-1]
  if not wrong.sum():
    return None
  seen = np.concatenate([[0.0], np.cumsum(correct + wrong)])
  found = np.concatenate([[0.0], np.cumsum(wrong)])
  return 100 * float(np.interp(share / 100 * seen[-1], seen, found)) / float(found[-1])


def mask_counts(
  mask: Bool[Array, "*pixels"],
  is_error: Bool[Array, "*pixels"],
  is_hard: Bool[Array, "*pixels"],
  valid: Bool[Array, "*pixels"],
) -> Int[Array, "2 3"]:
  """Counts for `mask_scores`: int32 [2, 3], pixels left alone and flagged, by correct, wrong and hard."""
  kinds = jnp.stack([~is_error, is_error, is_error & is_hard], -1) & valid[..., None]
  axes = tuple(range(mask.ndim))
  return jnp.stack([(kinds & (mask == flagged)[..., None]).sum(axes) for flagged in (False, True)])


def mask_scores(counts: Integer[np.ndarray, "2 3"]) -> Scores:
  """Scores of an error mask.

  Args:
    counts: integer [2, 3], row 0 pixels left alone, row 1 flagged; correct, wrong, hard errors among the wrong.

  Returns:
    In percent: IoU of the error class, precision, recall, hard_recall (hard errors flagged / hard errors).
  """
  (false, hit, hard), (_, errors, all_hard) = counts[1], np.asarray(counts, np.int64).sum(0)
  return {
    "IoU": _percent(hit, errors + false),
    "precision": _percent(hit, hit + false),
    "recall": _percent(hit, errors),
    "hard_recall": _percent(hard, all_hard),
  }


def image_score_sums(hists: Integer[np.ndarray, "N 2 bins"]) -> Float[np.ndarray, "3 2"]:
  """Per-image scores, summed: add these up over batches, then call `per_image_scores`.

  Args:
    hists: integer [N, 2, 4096], one histogram per image.

  Returns:
    float64 [3, 2]: for each of IMAGE_SCORES the sum and the number of images where it is defined.
  """
  sums = np.zeros((len(IMAGE_SCORES), 2))
  for correct, wrong in np.asarray(hists, np.int64):
    values = (
      _auroc(correct, wrong),
      _average_precision(wrong[::-1], correct[::-1]),
      _fpr95(correct, wrong),
    )
    sums += [(0, 0) if value is None else (value, 1) for value in values]
  return sums


def per_image_scores(sums: Float[np.ndarray, "3 2"]) -> Scores:
  """Means over images of `image_score_sums` [3, 2], the "per image" convention."""
  means = (float(total / count) if count else None for total, count in sums)
  return dict(zip(IMAGE_SCORES, means, strict=True))
