"""Learns and chooses, on images that trained nothing, what a network at rest is asked to do: views and CRF."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from errseg_jax.inference.choice import Choice, fused_probabilities, rebalanced
from errseg_jax.inference.combination import choose_combination, store_candidates
from errseg_jax.inference.compatibility import Candidates, fit_compatibility
from errseg_jax.inference.evaluator import Evaluator
from errseg_jax.inference.smoothing import log_scores, smoothed
from errseg_jax.inference.tuned import Tuned, settings_of
from errseg_jax.metrics.segmentation import confusion_matrix, mean_iou
from errseg_jax.models.crf import GuidanceCRF
from errseg_jax.models.error_aware import ErrorAware, infer
from errseg_jax.structs import Batch

PASSES = 5  # over the images, to learn the compatibility
ALPHAS = (0.5, 1.0, 3.0, 10.0)
LAMBDAS = (0.0, 1.0, 2.0, 4.0, 6.0)  # P3: 0..6


@dataclasses.dataclass(frozen=True)
class Tuner:
  """What tuning asks of a trained run.

  Attributes:
    evaluator: runs the network.
    model: the network, with its views.
    variables: trained.
    wanted: its trained branches.
    choice: how its branches are fused.
    source: labelled images that trained nothing.
    folder: where scores of views are stored meanwhile.
    progress: (title, images) -> (called with the number of images done).
  """

  evaluator: Evaluator
  model: ErrorAware
  variables: Any
  wanted: tuple[str, ...]
  choice: Choice
  source: Any
  folder: pathlib.Path
  progress: Callable[[str, int], Any]

  def run(self, config: ConfigDict, crf: GuidanceCRF | None, on: str) -> Tuned:
    """Everything that the config asks for: weights of the views first, as the CRF smooths what they combine."""
    found = Tuned(on, settings_of(config))
    if self.model.views is not None and self.model.views.combine == "learned":
      found = self.with_weights(found)
    if crf is not None:
      found = self.with_crf(found, crf)
    return found

  def with_weights(self, found: Tuned) -> Tuned:
    """Learned weights of the views, and the mIoU of their mean and of the learned combination."""
    assert self.model.views is not None
    with self.progress("views", len(self.source)) as show:
      shards = store_candidates(self.folder, self.evaluator, self.model, self.variables, self.source, show)
    weights, held_out = choose_combination(shards, self.model.detail.num_classes, self.model.views)
    shutil.rmtree(self.folder)
    scores = {f"views left out, {name}": score for name, score in held_out.items()}
    for name in ("mean", "learned"):
      model = self.model.clone(views=dataclasses.replace(self.model.views, combine=name))
      variables = {**self.variables, "tuned": {"combination": jnp.asarray(weights)}}
      counter = make_counter(model, self.wanted, self.choice.fusion)
      scores[f"views {name}"] = mean_iou(self.count(counter, variables, f"views {name}")["fused"])
    rows = tuple(tuple(float(w) for w in row) for row in weights)
    return dataclasses.replace(found, combination=rows, candidates=found.candidates | scores)

  def with_crf(self, found: Tuned, crf: GuidanceCRF) -> Tuned:
    """Alpha and lambda, of those asked for, with the best mIoU; the learned compatibility, where that is asked for.

    Where no candidate is better than no CRF, and alpha is to be chosen, it is 0: the CRF changes nothing.
    """
    tuned = {"combination": jnp.array(found.combination, jnp.float32)} if found.combination else {}
    matrix: tuple[tuple[float, ...], ...] = ()
    if crf.compatibility == "learned":
      start = dataclasses.replace(crf, alpha=_given(crf.alpha, 1.0), lam=_given(crf.lam, 1.0))
      learned, _ = fit_compatibility(start, self.examples(tuned))
      matrix = tuple(tuple(float(w) for w in row) for row in learned)
      tuned |= {"compatibility": jnp.array(matrix, jnp.float32)}
    pairs = candidates(crf, self.model.guidance is not None)
    counter = make_counter(self.model, self.wanted, self.choice.fusion, crf, pairs)
    counts = self.count(counter, {**self.variables, "tuned": tuned}, "CRF")
    scores = {pair: mean_iou(c) for pair, c in zip(pairs, counts["crf"], strict=True)}
    best, without = max(pairs, key=lambda pair: scores[pair]), mean_iou(counts["fused"])
    alpha, lam = best
    if crf.alpha is None and scores[best] <= without:
      alpha = 0.0
    named = {f"alpha={a:g} lambda={x:g}": score for (a, x), score in scores.items()}
    told = found.candidates | {"without CRF": without} | named
    return dataclasses.replace(found, alpha=alpha, lam=lam, compatibility=matrix, candidates=told)

  def examples(self, tuned: dict[str, Any]) -> Iterator[Candidates]:
    """What the network hands out without CRF, of every batch, PASSES times."""
    fusion = self.choice.fusion

    @jax.jit
    def forward(variables, batch: Batch, choice):
      outputs = rebalanced(
        infer(self.model, variables, batch.image, self.wanted), self.model.detail_weights, choice
      )
      return log_scores(fused_probabilities(outputs, fusion, choice)), outputs.presence

    with self.progress("compatibility", PASSES * len(self.source)) as show:
      for number in range(PASSES):
        done = number * len(self.source)
        for batch, names in self.evaluator.batches(self.source):
          scores, presence = forward({**self.variables, "tuned": tuned}, batch, self.choice.arrays())
          yield Candidates(batch.image, scores, batch.label, presence)
          done += len(names)
          show(done)

  def count(self, counter: Callable, variables: Any, title: str) -> dict[str, np.ndarray]:
    """What a counter adds up over the images."""
    with self.progress(title, len(self.source)) as show:
      return self.evaluator.run(counter, variables, self.source, self.choice, progress=show).counts


def candidates(crf: GuidanceCRF, guided: bool) -> list[tuple[float, float]]:
  """(alpha, lambda) of each CRF that is compared: those that are given, or the grid.

  A learned matrix has its own scale, so alpha is not varied; without guidance lambda does nothing.
  """
  alphas = (1.0,) if crf.compatibility == "learned" else ALPHAS
  lambdas = LAMBDAS if guided else (0.0,)
  return [
    (float(a), float(x))
    for a in (alphas if crf.alpha is None else (crf.alpha,))
    for x in (lambdas if crf.lam is None else (crf.lam,))
  ]


def _given(value: float | None, default: float) -> float:
  return default if value is None else value


def make_counter(
  model: ErrorAware,
  wanted: Sequence[str],
  fusion: str,
  crf: GuidanceCRF | None = None,
  pairs: Sequence[tuple[float, float]] = (),
) -> Callable[[Any, Batch, dict], dict[str, jax.Array]]:
  """A jitted (variables, batch, choice arrays) -> confusion of the labels handed out.

  Returns "fused" [C, C] without a CRF, and with one "crf" [P, C, C], of each of P pairs (alpha, lambda).
  """

  @jax.jit
  def count(variables, batch: Batch, choice):
    outputs = rebalanced(infer(model, variables, batch.image, wanted), model.detail_weights, choice)
    probabilities = fused_probabilities(outputs, fusion, choice)

    def confusion(scores):
      return confusion_matrix(batch.label, scores.argmax(-1), scores.shape[-1])

    out = {"fused": confusion(probabilities)}
    if crf is None:
      return out
    settings = crf

    def after(pair):
      own = dataclasses.replace(settings, alpha=pair[0], lam=pair[1])
      return confusion(smoothed(own, variables["tuned"], batch.image, probabilities, outputs)[0])

    return out | {"crf": jax.lax.map(after, jnp.array(pairs, jnp.float32))}

  return count
