"""ConfidNet's convention of error detection: void is a class that the network never predicts, so always an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from errseg_jax.errors import UserError
from errseg_jax.losses import error_target
from errseg_jax.metrics.calibration import calibrated
from errseg_jax.metrics.errors import Scores, baseline_logits, error_histogram, error_scores
from errseg_jax.models.error_aware import ErrorAware, infer
from errseg_jax.structs import IGNORE, Batch

SCORES = ("AUROC", "AUPR_error", "AUPR_success", "FPR95", "rate")


class VoidAsClass(Sequence):
  """A source whose pixels labelled 255 are of class C, so that only padding is ignored.

  Raises:
    UserError: 255 classes leave no label for it.
  """

  def __init__(self, source: Any, num_classes: int):
    if num_classes >= IGNORE:
      raise UserError(f"--confidnet: {num_classes} classes leave no label for void; leave --confidnet out")
    self.source, self.num_classes = source, num_classes

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index):
    sample = self.source[index]
    label = np.where(sample["label"] == IGNORE, self.num_classes, sample["label"]).astype(np.uint8)
    return {**sample, "label": label}

  @property
  def names(self) -> tuple[str, ...]:
    return self.source.names


def make_confidnet_counter(model: ErrorAware) -> Callable[[Any, Batch, dict], dict[str, jax.Array]]:
  """A jitted (variables, batch of a `VoidAsClass`, choice arrays) -> histograms of P_ep and max probability."""

  @jax.jit
  def count(variables, batch: Batch, choice):
    outputs = infer(model, variables, batch.image, ("error",))
    wrong, valid = error_target(outputs.semantic, batch.label), batch.label != IGNORE
    free = baseline_logits(outputs.semantic)["max_probability"]
    scores = {"error": calibrated(outputs.error, choice), "max_probability": free}
    return {f"histogram/{k}": error_histogram(z, wrong, valid) for k, z in scores.items()}

  return count


def confidnet_scores(counts: dict[str, np.ndarray]) -> dict[str, Scores]:
  """ "confidnet" of P_ep and "confidnet_max_probability": SCORES, all pixels of all images pooled.

  The published code takes FPR95 at the first of 10,000 evenly spaced thresholds that accepts 94.95 to 95.05 % of
  the correct pixels; here it is where 95 % are reached.

  Source: Corbiere et al., NeurIPS 2019.
  """
  names = {"confidnet": "error", "confidnet_max_probability": "max_probability"}
  rows = {k: error_scores(counts[f"histogram/{v}"]) for k, v in names.items()}
  return {k: {n: row[n] for n in SCORES} for k, row in rows.items()}
