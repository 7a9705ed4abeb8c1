"""Programs timed against each other in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np


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
