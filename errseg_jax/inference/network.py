"""A trained network, loaded from a workdir."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from errseg_jax import assemble
from errseg_jax.data.pipeline import bucket
from errseg_jax.inference.choice import Choice, fused_probabilities, rebalanced
from errseg_jax.metrics.calibration import calibrated
from errseg_jax.models.error_aware import ErrorAware, infer
from errseg_jax.structs import DatasetInfo, Outputs, Prediction


def to_prediction(outputs: Outputs, fusion: str, choice: dict[str, jax.Array]) -> Prediction:
  """`rebalanced` logits -> labels and calibrated P_ep."""
  maps = {
    "labels": fused_probabilities(outputs, fusion, choice),
    "semantic_labels": outputs.semantic,
    "detail_labels": outputs.detail,
  }
  labels = {k: v.argmax(-1).astype(jnp.uint8) for k, v in maps.items()}
  probability = jax.nn.sigmoid(calibrated(outputs.error, choice)).astype(jnp.float32)
  return Prediction(error_probability=probability, **labels)


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
  """Labels images, corrects the labels and says where they are likely wrong.

  Attributes:
    config: resolved config of the run.
    info: classes and palette.
    model: the network.
    variables: its parameters and statistics.
    choice: calibration, fusion, threshold.
  """

  config: ConfigDict
  info: DatasetInfo
  model: ErrorAware
  variables: Any
  choice: Choice

  @functools.cached_property
  def _forward(self):
    def forward(variables, image, choice):
      outputs = rebalanced(infer(self.model, variables, image), self.model.detail_weights, choice)
      return to_prediction(outputs, self.choice.fusion, choice)

    return jax.jit(forward)

  def predict(self, image: np.ndarray) -> Prediction:
    """One image.

    Args:
      image: uint8 [H, W, 3], RGB.

    Returns:
      Prediction of numpy arrays [H, W]. The image is padded to a bucket, so few sizes are compiled.

    Raises:
      ValueError: the image is no uint8 [H, W, 3].
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
      raise ValueError(f"predict needs uint8 [H, W, 3], got {image.dtype} {image.shape}")
    height, width = image.shape[:2]
    size = bucket(height, width, self.config.loader.size_multiple, self.config.segmenter.size_remainder)
    padded = np.empty((1, *size, 3), np.uint8)
    padded[:] = np.array(assemble.pad_value(self.config), np.uint8)
    padded[0, :height, :width] = image
    out = jax.device_get(self._forward(self.variables, padded, self.choice.arrays()))
    return jax.tree.map(lambda x: x[0, :height, :width], out)
