"""What the guided filter costs on the device at hand, by radius, against direct window sums."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from errseg_jax.bench.rounds import in_rounds
from errseg_jax.inference.speed import hardware
from errseg_jax.models.guided_filter import guided_filter

RADII = (1, 4, 30)
CLASSES = 21
FAST = 4  # times smaller, in the fast form
ROUNDS = 5  # of one run of each program


def filter_cost(height: int, width: int) -> dict[str, Any]:
  """Milliseconds of filtering the probabilities of 21 classes, batch 1.

  Returns:
    {"image_size", "hardware", "classes", "rows": [{"radius", "ms", "fast_ms", "direct_ms", "ratio"}]}, medians over
    the rounds. "fast_ms": of the fast form. "direct_ms": of the window sums alone, row by row and then column by
    column, of as many maps as the filter averages; "ratio": direct_ms / ms, paired in each round.
  """
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (1, height, width, 3), np.uint8)
  probabilities = jax.nn.softmax(rng.normal(size=(1, height, width, CLASSES)).astype(np.float32))
  image, probabilities = jax.device_put(image), jax.device_put(probabilities)
  programs: dict[tuple[int, str], Callable[..., jax.Array]] = {}
  for r in RADII:
    programs[r, "ms"] = jax.jit(functools.partial(guided_filter, radius=r, eps=10.0))
    programs[r, "fast_ms"] = jax.jit(functools.partial(guided_filter, radius=r, eps=10.0, subsample=FAST))
    programs[r, "direct_ms"] = jax.jit(functools.partial(direct_sums, radius=r))
  found = in_rounds(programs, ROUNDS, image, probabilities)
  rows = []
  for r in RADII:
    own = {name: found[r, name] for name in ("ms", "fast_ms", "direct_ms")}
    row = {name: 1000 * float(np.median(seconds)) for name, seconds in own.items()}
    rows.append({"radius": r, **row, "ratio": float(np.median(own["direct_ms"] / own["ms"]))})
  return {"image_size": [height, width], "hardware": hardware(), "classes": CLASSES, "rows": rows}


def direct_sums(guide: jax.Array, x: jax.Array, radius: int) -> jax.Array:
  """Sums over windows of the maps that a filter of x averages: x, its products with the guide, a and b."""
  maps = jnp.concatenate([x, *(x * guide[..., i : i + 1] for i in range(3))], -1)
  width = 2 * radius + 1
  for _ in range(2):
    for window in ((1, width, 1, 1), (1, 1, width, 1)):
      maps = jax.lax.reduce_window(maps, 0.0, jax.lax.add, window, (1, 1, 1, 1), "same")
  return maps


def table(cost: dict[str, Any]) -> Table:
  """The cost as a table."""
  height, width = cost["image_size"]
  title = (
    f"guided filter of {CLASSES} classes, {height}x{width} pixels, batch 1, {cost['hardware']['device']}"
  )
  out = Table(title=title)
  for column in ("radius", "ms", f"ms, {FAST} times smaller", "ms of direct window sums", "ratio"):
    out.add_column(column, justify="right")
  for row in cost["rows"]:
    numbers = (row[key] for key in ("ms", "fast_ms", "direct_ms"))
    out.add_row(str(row["radius"]), *(f"{number:,.1f}" for number in numbers), f"{row['ratio']:.1f}")
  return out
