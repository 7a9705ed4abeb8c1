"""Programs timed against each other in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def in_rounds(programs: Mapping[Any, Callable[[], object]], rounds: int) -> dict[Any, np.ndarray]:
  """Seconds of each program in each round, [rounds]; a first run, which compiles it, comes before.

  In a round every program runs once, so that a busy moment of the machine meets all of them: compare within a round.

  Args:
    programs: each waits for its result by itself.
    rounds: at least 1.
  """
  for program in programs.values():
    program()
  seconds = np.zeros((len(programs), rounds))
  for k in range(rounds):
    for i, program in enumerate(programs.values()):
      start = time.perf_counter()
      program()
      seconds[i, k] = time.perf_counter() - start
  return dict(zip(programs, seconds, strict=True))
