"""An image as a network takes it."""

from __future__ import annotations

import numpy as np
from ml_collections import ConfigDict

from errseg_jax import assemble
from errseg_jax.data.pipeline import bucket


def padded(config: ConfigDict, image: np.ndarray) -> np.ndarray:
  """An image [H, W, channels] as a batch of one, padded at the bottom and right to its bucket: few are compiled for."""
  height, width, channels = image.shape
  size = bucket(height, width, config.loader.size_multiple, config.segmenter.size_remainder)
  out = np.empty((1, *size, channels), np.uint8)
  out[:] = np.array(assemble.padding(config)[:channels], np.uint8)
  out[0, :height, :width] = image
  return out
