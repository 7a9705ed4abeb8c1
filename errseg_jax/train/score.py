"""Scores of a stage on the choose split, and what is drawn with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from errseg_jax.inference.choice import Choice
from errseg_jax.inference.choose import candidate_scores
from errseg_jax.inference.evaluator import Evaluator
from errseg_jax.inference.statistics import make_counter
from errseg_jax.metrics.errors import error_scores
from errseg_jax.metrics.presence import presence_scores
from errseg_jax.models.error_aware import ErrorAware
from errseg_jax.train.pictures import Album
from errseg_jax.train.stages import Stage
from errseg_jax.train.state import Variables, merge

DRAWN = 50  # of a stage's scorings, at most, come with pictures: event files stay small


@dataclasses.dataclass(frozen=True)
class Scored:
  """What a scoring gives.

  Attributes:
    scores: by the names that stages and metrics use, percent.
    errors: histogram [2, 4096] of P_ep (`metrics.errors.error_histogram`); None without an error branch.
    pictures: {name of an image: RGB uint8 [h, w, 3]}; may be empty.
  """

  scores: Mapping[str, float]
  errors: np.ndarray | None = None
  pictures: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


class StageScore:
  """(trained variables, step) -> `Scored` on the choose split.

  Args:
    stage: that is scored.
    frozen: variables of the other groups.
    model: the network as the stage meets it.
    evaluator: runs it.
    source: the choose split.
    classes: their names.
    thresholds: grid of the fusion "mask".
    album: what is drawn.
  """

  def __init__(
    self,
    stage: Stage,
    frozen: Variables,
    model: ErrorAware,
    evaluator: Evaluator,
    source: Any,
    classes: tuple[str, ...],
    thresholds: Sequence[float],
    album: Album,
  ):
    self.stage, self.frozen, self.evaluator, self.source = stage, frozen, evaluator, source
    self.classes, self.thresholds, self.album = classes, thresholds, album
    self.refined = ["refined"] if model.refine is not None else []
    self.counter = make_counter(model, wanted=stage.wanted, fusions=self.refined, thresholds=thresholds)

  def __call__(self, trained: Variables, step: int) -> Scored:
    variables = merge(self.frozen, trained)
    counts = self.evaluator.run(self.counter, variables, self.source, Choice()).counts
    pictures = self.album.draw(variables) if self.draws(step) else {}
    return Scored(self.scores(counts), counts.get("histogram/error"), pictures)

  def draws(self, step: int) -> bool:
    """Whether the scoring after a step comes with pictures: all, or DRAWN spread over the stage, and the last."""
    stage = self.stage
    if step == stage.steps or not stage.eval_every:
      return True
    apart = -(-stage.steps // (stage.eval_every * DRAWN))
    return (step // stage.eval_every) % apart == 0

  def scores(self, counts: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Percent, by the names that stages and metrics use."""
    names = [k for k in ("base", "semantic", "detail") if f"confusion/{k}" in counts]
    mask = ["mask"] if "by_threshold" in counts else []
    by_candidate = candidate_scores(dict(counts), names + mask + self.refined, self.thresholds)
    scores = {f"{k}/mIoU": by_candidate.pop(k) or 0.0 for k in names}
    if self.refined:
      scores["fused/mIoU"] = by_candidate["refined"] or 0.0
    elif "detail" in names:
      best = max([v or 0.0 for v in by_candidate.values()] or [0.0])
      scores["fused/mIoU"] = max(best, scores["detail/mIoU"])
    if "segmenter" not in self.stage.groups:
      right, pixels = np.trace(counts["confusion/semantic"]), counts["confusion/semantic"].sum()
      scores["error_rate"] = float(100 - 100 * right / max(pixels, 1))
    if "presence" in counts:
      scores["presence/mAP"] = presence_scores(counts["presence"], self.classes)["mAP"] or 0.0
    if "histogram/error" in counts:
      errors = error_scores(counts["histogram/error"])
      scores |= {f"error/{k}": errors[k] or 0.0 for k in ("AUPR_error", "AUROC")}
    return scores
