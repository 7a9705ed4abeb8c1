"""Counts that every score is computed from, on the device, for one batch."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from errseg_jax.inference.choice import fused_probabilities, rebalanced
from errseg_jax.inference.smoothing import smoothed
from errseg_jax.kernels import fused_counts
from errseg_jax.losses import error_target
from errseg_jax.metrics.calibration import calibrated
from errseg_jax.metrics.errors import baseline_logits, error_histogram, hard_histogram, mask_counts
from errseg_jax.metrics.presence import presence_histogram, present_classes
from errseg_jax.metrics.segmentation import boundary_counts, boundary_radius, confusion_matrix
from errseg_jax.metrics.temperature import nll_slopes
from errseg_jax.models.crf import GuidanceCRF
from errseg_jax.models.error_aware import ErrorAware, infer, infer_coarse
from errseg_jax.models.error_branch import disbelief_logit, unweighted
from errseg_jax.models.fusion import gate_features
from errseg_jax.pixel_losses import pixel_cross_entropy
from errseg_jax.structs import IGNORE, Batch, Outputs

Counts = dict[str, jax.Array]
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the detail loss's class weights that may be taken back out."""


def label_counts(outputs: Outputs, label: jax.Array, fusions: Sequence[str], choice: dict) -> Counts:
  """Confusion matrices of the frozen labels, those without guidance and subnets, the detail labels, each fusion."""
  num_classes = outputs.semantic.shape[-1]
  maps = {"semantic": outputs.semantic.argmax(-1)}
  if outputs.base is not None:
    maps["base"] = outputs.base.argmax(-1)
  if outputs.detail is not None:
    maps["detail"] = outputs.detail.argmax(-1)
  for fusion in fusions:
    if fusion not in maps and fusion != "mask":
      maps[fusion] = fused_probabilities(outputs, fusion, choice).argmax(-1)
  return {f"confusion/{k}": confusion_matrix(label, v, num_classes) for k, v in maps.items()}


def threshold_counts(
  outputs: Outputs, label: jax.Array, thresholds: Sequence[float], choice: dict
) -> jax.Array:
  """Confusion of the frozen and the detail labels by how many thresholds P_ep passes, [T + 1, 2, C, C].

  The mask fusion at the k-th threshold is the detail part of rows > k and the frozen part of the rest.
  """
  num_classes = outputs.semantic.shape[-1]
  p = jax.nn.sigmoid(calibrated(outputs.error, choice))
  passed = sum((p > t).astype(jnp.int32) for t in thresholds)
  cell = jnp.where(label == IGNORE, 0, label).astype(jnp.int32) + num_classes * passed
  length = (len(thresholds) + 1) * num_classes**2
  tables = []
  for logits in (outputs.semantic, outputs.detail):
    index = jnp.where(label == IGNORE, length, cell * num_classes + logits.argmax(-1))
    tables.append(jnp.bincount(index.ravel(), length=length + 1)[:-1])
  table = jnp.stack(tables).reshape(2, len(thresholds) + 1, num_classes, num_classes)
  return jnp.swapaxes(table, 0, 1)


def error_counts(
  outputs: Outputs, label: jax.Array, choice: dict, detail_weights: tuple[float, ...], rho: float
) -> Counts:
  """Histograms [B, 2, bins] of every error score and of the hard errors' P_ep; the mask at the chosen t."""
  wrong, valid = error_target(outputs.semantic, label), label != IGNORE
  scores = baseline_logits(outputs.semantic, choice["temperature"])
  hard = wrong & (scores["max_probability"] < math.log((1 - rho) / rho))
  if outputs.detail is not None:
    belief = unweighted(outputs.detail, detail_weights)
    scores["detail_disbelief"] = disbelief_logit(belief, outputs.semantic.argmax(-1))
  if outputs.error is not None:
    scores["error_raw"] = outputs.error
    scores["error"] = calibrated(outputs.error, choice)
  counts = {f"histogram/{k}": error_histogram(z, wrong, valid) for k, z in scores.items()}
  if outputs.error is not None:
    counts["hard"] = hard_histogram(scores["error"], hard, valid).sum(0)
    mask = jax.nn.sigmoid(scores["error"]) > choice["threshold"]
    counts["mask"] = mask_counts(mask, wrong, hard, valid)
  return counts


def image_counts(outputs: Outputs, label: jax.Array, fused: jax.Array, choice: dict) -> Counts:
  """Per image: valid, right and fused-right pixels, confusion of both maps, and by class the expected right ones."""
  valid = label != IGNORE
  semantic = outputs.semantic.argmax(-1)
  num_classes = outputs.semantic.shape[-1]
  confusion = jax.vmap(lambda y, s: confusion_matrix(y, s, num_classes))
  counts = {
    "image/valid": valid.sum((1, 2)),
    "image/right": (valid & (semantic == label)).sum((1, 2)),
    "image/fused_right": (valid & (fused == label)).sum((1, 2)),
    "image/confusion": confusion(label, fused),
    "image/semantic_confusion": confusion(label, semantic),
  }
  if outputs.error is not None:
    p = jax.nn.sigmoid(calibrated(outputs.error, choice))
    # Row by row: a single float32 sum over a large image would lose the small terms that come last.
    by_row = jax.vmap(jax.vmap(lambda s, w: jnp.bincount(s, w, length=num_classes)))
    counts["image/expected"] = by_row(semantic, (1.0 - p) * valid).sum(1)
  return counts


def fit_counts(outputs: Outputs, label: jax.Array, detail_weights: tuple[float, ...]) -> Counts:
  """For the temperature, and the detail labels' confusion at each share of SHARES where there are class weights."""
  counts = {"nll_slopes": nll_slopes(outputs.semantic, label)}
  if outputs.detail is not None and detail_weights:
    labels = [unweighted(outputs.detail, detail_weights, share).argmax(-1) for share in SHARES]
    num_classes = outputs.semantic.shape[-1]
    counts["by_share"] = jnp.stack([confusion_matrix(label, x, num_classes) for x in labels])
  return counts


@dataclasses.dataclass(frozen=True, eq=False)
class Counter:
  """What of a batch is counted.

  Attributes:
    model: the network.
    wanted: branches to run.
    fusions: candidates whose confusion is counted.
    thresholds: grid of t, where both branches run.
    fusion: the chosen one; named, boundaries and per-image counts are taken for it too.
    rho: confidence above which an error is hard (P0, section 3.3).
    fits: take what the temperature and the share of the class weights are fitted on.
    oracle: with `fusion`, count labels restricted to the classes that the image's annotation shows (P3, Table 1).
    crf: with `fusion`, count labels after it, and the share that each of its iterations changes.
  """

  model: ErrorAware
  wanted: Sequence[str]
  fusions: Sequence[str] = ()
  thresholds: Sequence[float] = ()
  fusion: str = ""
  rho: float = 0.95
  fits: bool = False
  oracle: bool = False
  crf: GuidanceCRF | None = None

  def count(self, variables: Any, batch: Batch, choice: dict) -> Counts:
    """Counts of a batch; `choice`: arrays of an `inference.choice.Choice`."""
    outputs, label = infer_coarse(self.model, variables, batch.image, self.wanted), batch.label
    num_classes = outputs.semantic.shape[-1]
    present = present_classes(label, num_classes) if self.oracle else None

    def rows(outputs, label, smooth=None):
      return self.count_rows(outputs, label, choice, present, smooth)

    if self.crf is None:
      counts, maps = fused_counts(outputs, label, rows) or rows(outputs, label)
    else:  # it passes messages between all rows
      smooth = functools.partial(smoothed, self.crf, variables.get("tuned", {}), batch.image)
      counts, maps = rows(outputs, label, smooth)
    radius = boundary_radius(*label.shape[1:])
    for name, labels in maps.items():
      counts[f"boundary/{name}"] = boundary_counts(label, labels, num_classes, radius)
      counts[f"confusion/{name}"] = confusion_matrix(label, labels, num_classes)
    if outputs.presence is not None:
      counts["presence"] = presence_histogram(outputs.presence, label)
    return counts

  def count_rows(
    self, outputs: Outputs, label: jax.Array, choice: dict, present: Any, smooth: Callable | None
  ) -> tuple[Counts, dict[str, jax.Array]]:
    """Counts and label maps of images, or of some rows of them.

    Args:
      outputs: of a forward pass.
      label: uint8 [B, H, W].
      choice: arrays of a Choice.
      present: bool [B, C], classes of each image, for `oracle`.
      smooth: `smoothed` of (P_f, outputs), of whole images; None: labels are not smoothed.
    """
    weights = self.model.detail_weights
    counts = error_counts(outputs, label, choice, weights, self.rho)
    if self.fits:
      counts |= fit_counts(outputs, label, weights)
    outputs = rebalanced(outputs, weights, choice)
    counts |= label_counts(outputs, label, self.fusions, choice)
    if self.thresholds and outputs.error is not None and outputs.detail is not None:
      counts["by_threshold"] = threshold_counts(outputs, label, self.thresholds, choice)
    if not self.fusion:
      return counts, {}
    scores = fused_probabilities(outputs, self.fusion, choice)
    maps = {"semantic": outputs.semantic.argmax(-1), "fused": scores.argmax(-1)}
    counts |= image_counts(outputs, label, maps["fused"], choice)
    if smooth is not None:
      scores, changed = smooth(scores, outputs)
      maps["crf"] = scores.argmax(-1)
      counts["crf/changed"], counts["crf/images"] = changed * len(label), jnp.asarray(len(label))
    if self.oracle:
      maps["oracle"] = jnp.where(present[:, None, None], scores, -jnp.inf).argmax(-1)
    return counts, {name: x.astype(jnp.uint8) for name, x in maps.items()}


def make_counter(
  model: ErrorAware, *, wanted: Sequence[str], **options: Any
) -> Callable[[Any, Batch, dict], Counts]:
  """A jitted (variables, batch, choice arrays) -> counts; arguments as of `Counter`."""
  return jax.jit(Counter(model, wanted, **options).count)


def make_sampler(model: ErrorAware, every: int) -> Callable[[Any, Batch, dict], Counts]:
  """A jitted (variables, batch, choice arrays) -> what the gate is fitted on, at every `every`-th row and column.

  Returns gate features [B, n, 6], P_sb and P_db of the true label [B, n], and valid [B, n].
  """

  @jax.jit
  def sample(variables, batch: Batch, choice):
    outputs = rebalanced(infer(model, variables, batch.image), model.detail_weights, choice)
    outputs = dataclasses.replace(outputs, presence=None)  # the one field that is no map
    outputs = jax.tree.map(lambda x: x[:, ::every, ::every], outputs)
    label = batch.label[:, ::every, ::every]
    values = {
      "features": gate_features(outputs.semantic, outputs.detail, outputs.error),
      "semantic": jnp.exp(-pixel_cross_entropy(outputs.semantic, label)),
      "detail": jnp.exp(-pixel_cross_entropy(outputs.detail, label)),
      "valid": label != IGNORE,
    }
    return {k: v.reshape(v.shape[0], -1, *v.shape[3:]) for k, v in values.items()}

  return sample
