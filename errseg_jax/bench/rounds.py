"""Programs timed side by side on the images of a split."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from errseg_jax import assemble
from errseg_jax.data.pipeline import bucket

IMAGES = 16  # that are timed, evenly over the split
ROUNDS = 5  # of each program on each of them


def seconds_of(
  config: ConfigDict, programs: Mapping[str, Callable[[Any, Any], Any]], variables: Any, source: Any
) -> tuple[list[int], dict[str, np.ndarray]]:
  """([height, width] as padded, {program: seconds of each image in each round, [n, ROUNDS]}).

  Images of one size, that of the first, at batch 1. In a round every program runs once, so that a busy moment of the
  machine meets all of them.

  Args:
    config: of the run.
    programs: jitted (variables, image uint8 [1, H, W, 3]) -> anything.
    variables: of the network.
    source: images.
  """
  chosen = sorted({int(i) for i in np.linspace(0, len(source) - 1, IMAGES)})
  images = [padded(config, source[index]["image"]) for index in chosen]
  images = [image for image in images if image.shape == images[0].shape]
  seconds = np.zeros((len(programs), len(images), ROUNDS))
  for k, image in enumerate(images):
    for program in programs.values():
      jax.block_until_ready(program(variables, image))
    for r in range(ROUNDS):
      for i, program in enumerate(programs.values()):
        start = time.perf_counter()
        jax.block_until_ready(program(variables, image))
        seconds[i, k, r] = time.perf_counter() - start
  return list(images[0].shape[1:3]), dict(zip(programs, seconds, strict=True))


def padded(config: ConfigDict, image: np.ndarray) -> np.ndarray:
  """An image [H, W, 3] as a batch of one, in its bucket."""
  height, width = image.shape[:2]
  size = bucket(height, width, config.loader.size_multiple, config.segmenter.size_remainder)
  out = np.empty((1, *size, 3), np.uint8)
  out[:] = np.array(assemble.pad_value(config), np.uint8)
  out[0, :height, :width] = image
  return out
