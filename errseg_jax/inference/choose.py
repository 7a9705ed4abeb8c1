"""Chooses calibration, fusion and threshold on images that trained nothing, "semantic only" among them.

The candidates are compared by two-fold cross-fitting: calibration and gate are fitted on one half of the
images and scored on the other, both ways; what is kept is fitted on all. A few images tell candidates apart only
so well: of those within one standard error of the best, the most cautious is taken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from scipy import optimize, special

from errseg_jax import processes
from errseg_jax.data.splits import stretches
from errseg_jax.inference.choice import Choice
from errseg_jax.inference.evaluator import Evaluator
from errseg_jax.inference.statistics import SHARES, make_counter, make_sampler
from errseg_jax.metrics.calibration import IDENTITY, fit
from errseg_jax.metrics.errors import Scores, error_scores
from errseg_jax.metrics.segmentation import segmentation_scores
from errseg_jax.metrics.temperature import fit_temperature
from errseg_jax.models.error_aware import ErrorAware
from errseg_jax.models.fusion import BLIND

MAX_SAMPLES = 400_000  # pixels that the gate is fitted on
BLOCKS = 5  # stretches of images in each half, which the standard errors come from
GATE_DECAY = 1e-4  # L2 on the gate's weights


def mask_confusion(by_threshold: np.ndarray, k: int) -> np.ndarray:
  """Confusion matrix of the mask fusion at the k-th threshold, from `threshold_counts`."""
  return by_threshold[k + 1 :, 1].sum(0) + by_threshold[: k + 1, 0].sum(0)


def fit_gate(samples: dict[str, np.ndarray]) -> tuple[float, ...]:
  """Weights of the gate that minimise -log(g P_db[y] + (1 - g) P_sb[y]) over sampled pixels."""
  x, p_s, p_d = samples["features"], samples["semantic"], samples["detail"]
  if not len(x):
    return (0.0,) * 6

  def loss(w):
    g = special.expit(x @ w)
    p = np.maximum(g * p_d + (1 - g) * p_s, 1e-12)
    slope = -(p_d - p_s) * g * (1 - g) / p
    return -np.log(p).mean() + GATE_DECAY * w @ w, x.T @ slope / len(x) + 2 * GATE_DECAY * w

  found = optimize.minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B")
  return tuple(float(w) for w in found.x)


def fit_share(by_share: np.ndarray) -> float:
  """The share of the class weights to take out at which the detail labels' mIoU is best, the smallest of equals.

  Args:
    by_share: confusion matrices [len(SHARES), C, C].
  """
  classes = [str(c) for c in range(by_share.shape[-1])]
  scores = [segmentation_scores(confusion, classes)["mIoU"] or 0.0 for confusion in by_share]
  return SHARES[int(np.argmax(scores))]


def collect(
  evaluator: Evaluator, model: ErrorAware, variables: Any, source: Any, choice: Choice
) -> dict[str, np.ndarray]:
  """Gate samples of a source, at most MAX_SAMPLES pixels however many images."""
  sample, parts, arrays = make_sampler(model, every=8), [], choice.arrays()
  per_image = max(1, MAX_SAMPLES // len(source))
  variables, source = evaluator.own(variables, source)
  for batch, names in evaluator.batches(source):
    values = jax.device_get(sample(variables, batch, arrays))
    for i in range(len(names)):
      keep = np.flatnonzero(values["valid"][i])
      keep = keep[:: -(-len(keep) // per_image) or 1]
      parts.append({k: v[i][keep].astype(np.float64) for k, v in values.items()})
  own = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]} if parts else {}
  found = [samples for samples in processes.gathered(own) if samples]
  return {k: np.concatenate([samples[k] for samples in found]) for k in found[0]}


def with_gates(
  evaluator: Evaluator, model: ErrorAware, variables: Any, parts: Sequence[Any], fits: Sequence[Choice]
) -> list[Choice]:
  """The choices fitted on each half and on all, with gates fitted on the same; each sees the logits it is kept with."""
  halves = zip(parts, fits[:2], strict=True)
  samples = [collect(evaluator, model, variables, part, fit) for part, fit in halves]
  whole = samples
  if len({fit.unweight for fit in fits}) > 1:
    whole = [collect(evaluator, model, variables, part, fits[2]) for part in parts]
  samples = [*samples, {k: np.concatenate([s[k] for s in whole]) for k in samples[0]}]
  return [dataclasses.replace(fit, gate=fit_gate(s)) for fit, s in zip(fits, samples, strict=True)]


def choose(
  evaluator: Evaluator,
  model: ErrorAware,
  variables: Any,
  source: Any,
  *,
  calibration: str,
  fusions: Sequence[str],
  thresholds: Sequence[float],
  on: str,
  wanted: Sequence[str] = ("error", "detail"),
) -> Choice:
  """The most cautious candidate within one standard error of the best mIoU on `source`.

  Args:
    evaluator: runs the network.
    model: the network.
    variables: trained.
    source: labelled images that trained nothing.
    calibration: of P_ep, one of metrics.calibration.CALIBRATIONS.
    fusions: candidates. One alone is taken, and reported.
    thresholds: grid of "mask".
    on: what `source` is, in words, for the record.
    wanted: the trained branches; without "error" candidates that ask it are left out.
  """
  parts = stretches(source, 2)
  fit_counter = make_counter(model, wanted=wanted, fits=True)
  fit_counts = [evaluator.run(fit_counter, variables, part, Choice()).counts for part in parts]
  fit_counts.append({key: fit_counts[0][key] + fit_counts[1][key] for key in fit_counts[0]})
  fits = [fitted(counts, calibration) for counts in fit_counts]  # on each half, and on all
  if "error" not in wanted:
    fusions = [fusion for fusion in fusions if fusion in BLIND]
  if "gate" in fusions:
    fits = with_gates(evaluator, model, variables, parts, fits)
  counter = make_counter(model, wanted=wanted, fusions=fusions, thresholds=thresholds)
  blocks: list[dict[str, Any]] = []
  for part, other in zip(parts, fits[1::-1], strict=True):
    blocks += [evaluator.run(counter, variables, b, other).counts for b in stretches(part, BLOCKS)]
  counts = {key: sum(block[key] for block in blocks) for key in blocks[0]}
  scores = candidate_scores(counts, fusions, thresholds)
  without = [candidate_scores({k: counts[k] - b[k] for k in counts}, fusions, thresholds) for b in blocks]
  errors = standard_errors(scores, without)
  fusion, _, t = most_cautious(scores, errors).partition("@")
  ece = {}
  if "histogram/error" in counts:
    ece["before"] = error_scores(fit_counts[2]["histogram/error_raw"])["ECE"]
    ece["after"] = error_scores(counts["histogram/error"])["ECE"]
  return dataclasses.replace(
    fits[2],
    fusion=fusion,
    threshold=float(t) if t else 0.5,
    on=on,
    candidates=scores,
    standard_errors=errors,
    calibration=ece,
  )


def fitted(counts: dict[str, np.ndarray], calibration: str) -> Choice:
  """Calibration of P_ep, temperature and share of the class weights, from the counts of a fitting pass."""
  raw = counts.get("histogram/error_raw")
  return Choice(
    **vars(IDENTITY if raw is None else fit(calibration, raw)),
    temperature=fit_temperature(counts["nll_slopes"]),
    unweight=fit_share(counts["by_share"]) if "by_share" in counts else 0.0,
  )


def choose_both_ways(
  evaluator: Evaluator, model: ErrorAware, variables: Any, source: Any, *, on: str, **options: Any
) -> Choice:
  """`choose` where `source` is what is reported: each half gets what was chosen on the other half.

  The choice on all of it serves images beyond `source`.
  """
  first, second = stretches(source, 2)
  found = [choose(evaluator, model, variables, s, on=on, **options) for s in (source, second, first)]
  return dataclasses.replace(found[0], halves=tuple(found[1:]))


def standard_errors(scores: Scores, without: Sequence[Scores]) -> dict[str, float]:
  """Standard error of each candidate's distance to the best, by the delete-one jackknife over blocks of images.

  Args:
    scores: mIoU by candidate over all blocks.
    without: the same without each block in turn.
  """
  best = max(scores, key=lambda name: scores[name] or 0.0)
  out = {}
  for name in scores:
    gaps = np.array([(part[best] or 0.0) - (part[name] or 0.0) for part in without])
    out[name] = float(np.sqrt((len(gaps) - 1) * gaps.var()))
  return out


def most_cautious(scores: Scores, errors: dict[str, float]) -> str:
  """Of the candidates within one standard error of the best, the one that changes the frozen labels least.

  That is "semantic", then "mask" from the largest t down, then what asks the error branch, "mean" and "detail".
  """

  def caution(name: str) -> tuple[int, float]:
    fusion, _, t = name.partition("@")
    steps = {"semantic": 0, "mask": 1, "mean": 3, "detail": 4}
    return steps.get(fusion, 2), -float(t or 0)

  best = max(score or 0.0 for score in scores.values())
  return min((n for n, score in scores.items() if (score or 0.0) >= best - errors[n]), key=caution)


def candidate_scores(
  counts: dict[str, np.ndarray], fusions: Sequence[str], thresholds: Sequence[float]
) -> Scores:
  """mIoU by candidate; "mask@t" for each t."""
  confusions = {f: counts[f"confusion/{f}"] for f in fusions if f != "mask"}
  if "mask" in fusions:
    for k, t in enumerate(thresholds):
      confusions[f"mask@{t:g}"] = mask_confusion(counts["by_threshold"], k)
  classes = [str(c) for c in range(len(counts["confusion/semantic"]))]
  return {k: segmentation_scores(v, classes)["mIoU"] for k, v in confusions.items()}
