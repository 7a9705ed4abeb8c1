"""What a CRF costs on the device at hand: guided messages, and a dense CRF's kernels in a small window."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from rich.table import Table

from errseg_jax.bench.roofline import bandwidth, program_costs, temporary_bytes
from errseg_jax.bench.rounds import in_rounds
from errseg_jax.inference.speed import hardware
from errseg_jax.models.crf import GuidanceCRF, mean_field

CLASSES = 21
ITERATIONS = 5
ROUNDS = 3  # of one run of each program
GUIDED = GuidanceCRF(iterations=ITERATIONS, alpha=3.0, lam=3.0)
CRFS = {
  "guided": GUIDED,
  "guided, 4 times smaller": dataclasses.replace(GUIDED, subsample=4),
  "dense, radius 5": dataclasses.replace(GUIDED, kernel="gaussian_bilateral", radius=5),
}


def crf_cost(height: int, width: int) -> dict[str, Any]:
  """Milliseconds of five iterations on random scores of 21 classes, batch 1.

  Returns:
    {"image_size", "hardware", "classes", "iterations", "bytes_per_second", "rows": [{"crf", "ms", "iteration_ms",
    "temporary_MB", "gbyte", "share_of_bytes"}]}, medians over the rounds. "gbyte" moved as XLA counts them, of which a
    cache answers some; "share_of_bytes": of what a large copy moves in the same time.
  """
  rng = np.random.default_rng(0)
  image = jax.device_put(rng.integers(0, 256, (1, height, width, 3), np.uint8))
  scores = jax.device_put(rng.normal(size=(1, height, width, CLASSES)).astype(np.float32))
  presence = jax.device_put(rng.normal(size=(1, CLASSES)).astype(np.float32))

  def program(crf: GuidanceCRF) -> Callable[..., Any]:
    run = jax.jit(lambda image, scores, presence: mean_field(crf, image, scores, presence))
    return run.lower(image, scores, presence).compile()

  programs = {name: program(crf) for name, crf in CRFS.items()}
  speed, rows = bandwidth(), []
  for name, seconds in in_rounds(programs, ROUNDS, image, scores, presence).items():
    own, moved = float(np.median(seconds)), program_costs(programs[name])["bytes"]
    row = {"crf": name, "ms": 1000 * own, "iteration_ms": 1000 * own / ITERATIONS}
    row |= {"temporary_MB": temporary_bytes(programs[name]) / 1e6}
    rows.append(row | {"gbyte": moved / 1e9, "share_of_bytes": moved / own / speed})
  return {
    "image_size": [height, width],
    "hardware": hardware(),
    "classes": CLASSES,
    "iterations": ITERATIONS,
    "bytes_per_second": speed,
    "rows": rows,
  }


def table(cost: dict[str, Any]) -> Table:
  """The cost as a table."""
  height, width = cost["image_size"]
  device, speed = cost["hardware"]["device"], cost["bytes_per_second"] / 1e9
  what = f"{cost['iterations']} iterations, {cost['classes']} classes, {height}x{width} pixels"
  out = Table(title=f"{what}, {device}, {speed:,.0f} GB/s")
  for column in ("CRF", "ms", "ms an iteration", "temporary MB", "GB moved", "% of GB/s"):
    out.add_column(column, justify="left" if column == "CRF" else "right")
  for row in cost["rows"]:
    numbers = (f"{row[key]:,.1f}" for key in ("ms", "iteration_ms", "temporary_MB", "gbyte"))
    out.add_row(row["crf"], *numbers, f"{100 * row['share_of_bytes']:.0f}")
  return out
