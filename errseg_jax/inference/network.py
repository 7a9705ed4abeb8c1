"""A trained network, loaded from a workdir."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from ml_collections import ConfigDict

from errseg_jax.inference.choice import Choice, fused_probabilities, rebalanced
from errseg_jax.inference.padding import padded
from errseg_jax.inference.smoothing import smoothed
from errseg_jax.kernels import fused_labels
from errseg_jax.metrics.calibration import calibrated
from errseg_jax.models.crf import GuidanceCRF
from errseg_jax.models.error_aware import ErrorAware, infer, infer_coarse, single_pass
from errseg_jax.models.error_branch import max_probability_logit
from errseg_jax.models.folding import fold, foldable, folded
from errseg_jax.models.tiles import added, band, empty
from errseg_jax.structs import DatasetInfo, Outputs, Prediction


def to_prediction(
  outputs: Outputs, scores: Float[Array, "B H W C"], choice: dict[str, Float[Array, "..."]]
) -> Prediction:
  """`rebalanced` logits, and the class scores of the labels that are handed out -> labels and calibrated P_ep.

  Without an error branch 1 - max P_sb stands in for P_ep, at the temperature that was chosen, where one was; without a
  detail branch its labels are the network's.
  """
  maps = {
    "labels": scores,
    "semantic_labels": outputs.semantic,
    "detail_labels": outputs.semantic if outputs.detail is None else outputs.detail,
  }
  labels = {k: v.argmax(-1).astype(jnp.uint8) for k, v in maps.items()}
  if outputs.error is None:
    error = max_probability_logit(outputs.semantic / choice["temperature"])
  else:
    error = calibrated(outputs.error, choice)
  probability = jax.nn.sigmoid(error).astype(jnp.float32)
  return Prediction(error_probability=probability, **labels)


def moved_up(x: jax.Array, rows: jax.Array) -> jax.Array:
  """A map [B, h, W, ...] without its first rows, zeros below; what is no map stays."""
  if x.ndim < 3:
    return x
  below = jnp.arange(x.shape[1]) >= x.shape[1] - rows
  return jnp.where(below.reshape(1, -1, *(1,) * (x.ndim - 2)), 0, jnp.roll(x, -rows, 1))


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
  """Labels images, corrects the labels and says where they are likely wrong.

  Attributes:
    config: resolved config of the run.
    info: classes and palette.
    model: the network.
    variables: its parameters and statistics.
    choice: calibration, fusion, threshold.
    branches: of "error" and "detail", those that the run trained.
    crf: that labels are smoothed by; None without.
  """

  config: ConfigDict
  info: DatasetInfo
  model: ErrorAware
  variables: Any
  choice: Choice
  branches: tuple[str, ...] = ("error", "detail")
  crf: GuidanceCRF | None = None

  def _told(
    self, variables: Any, outputs: Outputs, choice: dict[str, jax.Array], image: jax.Array | None = None
  ) -> Prediction:
    """With the CRF where the whole image is given."""
    if self.crf is None:
      told = fused_labels(outputs.coarse, self.choice.fusion, choice, self.model.detail_weights)
      if told is not None:
        return Prediction(told.labels, told.semantic_labels, told.detail_labels, told.error_probability)
    outputs = rebalanced(outputs, self.model.detail_weights, choice)
    scores = fused_probabilities(outputs, self.choice.fusion, choice)
    if self.crf is not None and image is not None:
      scores, _ = smoothed(self.crf, variables.get("tuned", {}), image, scores, outputs)
    return to_prediction(outputs, scores, choice)

  @functools.cached_property
  def _folds(self) -> dict:
    """Batch normalisations of the segmenter, which the convolutions before them take over.

    A cascade's own stay: of its fine network parts run by themselves, under other paths (`models.early_exit`).
    """
    found = foldable(single_pass(self.model))
    return {norm: pair for norm, pair in found.items() if norm[0] == "segmenter"}

  @functools.cached_property
  def resting(self) -> Any:
    """The variables, folded: what `forward` takes."""
    return jax.jit(functools.partial(fold, pairs=self._folds))(self.variables)

  def forward(self, variables: Any, image: jax.Array, choice: dict[str, jax.Array]) -> Prediction:
    """What `predict` compiles, to be traced.

    Args:
      variables: `resting`.
      image: uint8 [B, H, W, 3], padded.
      choice: arrays of the `Choice`.

    Returns:
      Prediction of arrays [B, H, W].
    """
    with folded(self._folds):
      outputs = infer_coarse(self.model, variables, image, self.branches)
    return self._told(variables, outputs, choice, image)

  @functools.cached_property
  def _forward(self):
    return jax.jit(self.forward)

  @functools.cached_property
  def _band(self):
    """(sums of no row, sums and the next band -> Prediction of the band's rows, sums for the rows below)."""
    tiles, untiled = self.model.tiles, self.model.clone(tiles=None)
    assert tiles is not None

    def function(variables):
      def run(image):
        with folded(self._folds):
          return infer(untiled, variables, image, wanted=self.branches)

      return run

    def start(variables, rows):
      return empty(function(variables), rows, rows.shape[1], tiles)

    def add(sums, variables, rows, weights, done, choice):
      sums = added(sums, band(function(variables), rows, tiles), 0, weights, axis=1)
      return self._told(variables, sums, choice), jax.tree.map(functools.partial(moved_up, rows=done), sums)

    return jax.jit(start), jax.jit(add, donate_argnums=0)

  def _by_bands(self, image: np.ndarray) -> Prediction:
    """As `_forward`, of an image [1, H, W, 3] larger than a tile; on the device lie the scores of one band at a time.

    Rows that no later band reaches are told and dropped.
    """
    assert self.model.tiles is not None
    starts, weights = self.model.tiles.places(image.shape[1])
    side, choice, (start, add) = weights.shape[1], self.choice.arrays(), self._band
    sums = start(self.resting, image[:, :side])
    whole: Any = None
    for first, end, own in zip(starts, [*starts[1:], image.shape[1]], weights, strict=True):
      done = end - first
      told, sums = add(sums, self.resting, image[:, first : first + side], own, done, choice)
      rows = jax.device_get(told)
      if whole is None:
        whole = jax.tree.map(lambda x: np.empty(image.shape[:3], x.dtype), rows)
      for out, part in zip(jax.tree.leaves(whole), jax.tree.leaves(rows), strict=True):
        out[:, first:end] = part[:, :done]
    return whole

  def predict(self, image: UInt8[np.ndarray, "H W channels"]) -> Prediction:
    """One image.

    Args:
      image: uint8 [H, W, 3], RGB; of a network that is saved scores [H, W, 3 + C], as `data.scores.joined` makes it.

    Returns:
      Prediction of numpy arrays [H, W]. The image is padded to a bucket, so few sizes are compiled.

    Raises:
      ValueError: the image is no such array.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != self.model.image_channels:
      raise ValueError(
        f"predict needs uint8 [H, W, {self.model.image_channels}], got {image.dtype} {image.shape}"
      )
    height, width = image.shape[:2]
    whole = padded(self.config, image)
    if self.model.tiles is not None and max(whole.shape[1:3]) > self.model.tiles.size:
      out = self._by_bands(whole)
    else:
      out = jax.device_get(self._forward(self.resting, whole, self.choice.arrays()))
    return jax.tree.map(lambda x: x[0, :height, :width], out)
