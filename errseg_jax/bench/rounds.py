"""Programs timed against each other in one run: on given arguments, or on the images of a split."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from errseg_jax.data.scores import joined
from errseg_jax.inference.padding import padded

IMAGES = 16  # that are timed, evenly over the split
ROUNDS = 5  # of each program on each of them


def in_rounds(
  programs: Mapping[Any, Callable[..., Any]], rounds: int, *arguments: Any
) -> dict[Any, np.ndarray]:
  """Seconds of each program in each round, [rounds]; a first run, which compiles it, comes before.

  In a round every program runs once, so that a busy moment of the machine meets all of them: compare within a round.

  Args:
    programs: all of the same arguments; of what is no jax array each waits for its result by itself.
    rounds: at least 1.
    *arguments: of the programs.
  """
  for program in programs.values():
    jax.block_until_ready(program(*arguments))
  seconds = np.zeros((len(programs), rounds))
  for k in range(rounds):
    for i, program in enumerate(programs.values()):
      start = time.perf_counter()
      jax.block_until_ready(program(*arguments))
      seconds[i, k] = time.perf_counter() - start
  return dict(zip(programs, seconds, strict=True))


def seconds_of(
  config: ConfigDict, programs: Mapping[str, Callable[[Any, Any], Any]], variables: Any, source: Any
) -> tuple[list[int], dict[str, np.ndarray]]:
  """([height, width] as padded, {program: seconds of each image in each round, [n, ROUNDS]}).

  Images of one size, that of the first, at batch 1.

  Args:
    config: of the run.
    programs: jitted (variables, image uint8 [1, H, W, 3]) -> anything.
    variables: of the network.
    source: images.
  """
  chosen = sorted({int(i) for i in np.linspace(0, len(source) - 1, IMAGES)})
  images = [padded(config, joined(source[index])["image"]) for index in chosen]
  images = [image for image in images if image.shape == images[0].shape]
  found = [in_rounds(programs, ROUNDS, variables, image) for image in images]
  return list(images[0].shape[1:3]), {name: np.stack([one[name] for one in found]) for name in programs}
