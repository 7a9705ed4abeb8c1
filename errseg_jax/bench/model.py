"""What a network and each of its branches cost on the device at hand, with random weights."""

from __future__ import annotations

import functools
import json
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from errseg_jax import assemble
from errseg_jax.bench.rounds import in_rounds
from errseg_jax.bench.size import size
from errseg_jax.inference.speed import hardware
from errseg_jax.models.error_aware import infer, single_pass

COUNTS = ("parameters", "multiply_adds")
ADDED = ("guidance", "subnets")  # to the segmenter, where a config has them
ROUNDS = 15  # of one run of each program
PROGRAMS: dict[str, tuple[str, ...]] = {
  "segmenter": (),
  "guided": (),  # with its guidance
  "network": (),  # with its subnets too
  "error": ("error",),
  "detail": ("detail",),
  "both": ("error", "detail"),
}


def model_cost(config: ConfigDict, height: int, width: int) -> dict[str, Any]:
  """Parameters, multiply-adds and time of the network and of each branch, batch 1, with random weights.

  Args:
    config: of the run; its data set says how many classes there are.
    height: of the image, pixels.
    width: see height.

  Returns:
    {"image_size", "hardware", "groups": {"segmenter" | "guidance" | "subnets" | "error" | "detail": {"parameters",
    "multiply_adds", "ms", "share"}}, "branches": {same}}, of the parts that the network has. "ms" of the segmenter
    is the median over the rounds, of a branch the median of what it adds in a round; an error branch that reads the
    detail branch's logits is charged what it adds to both. "share": percent of the segmenter's time.
    "branches" are both at once.
  """
  sizes = size(config, height, width)["groups"]
  groups = {
    name: {key: sum(v[key] for g, v in sizes.items() if g.split("/")[0] == name) for key in COUNTS}
    for name in ("segmenter", *ADDED, "error", "detail")
  }
  seconds = times(config, height, width)
  below = "detail" if config.error_branch.get("prior", "none") == "detail" else "network"
  full = "both" if below == "detail" else "error"
  added = {
    "error": seconds[full] - seconds[below],
    "detail": seconds["detail"] - seconds["network"],
    "branches": seconds["both"] - seconds["network"],
    "guidance": seconds["guided"] - seconds["segmenter"],
    "subnets": seconds["network"] - seconds["guided"],
  }
  base = float(np.median(seconds["segmenter"]))
  both = {key: groups["error"][key] + groups["detail"][key] for key in COUNTS}
  rows: dict[str, Any] = {"segmenter": groups["segmenter"] | {"ms": 1000 * base, "share": 100.0}}
  parts = (*(part for part in ADDED if groups[part]["parameters"]), "error", "detail")
  for name, counts in (*((part, groups[part]) for part in parts), ("branches", both)):
    value = float(np.median(added[name]))
    rows[name] = counts | {"ms": 1000 * value, "share": 100 * value / base}
  return {
    "image_size": [height, width],
    "hardware": hardware(),
    "branches": rows.pop("branches"),
    "groups": rows,
  }


def times(config: ConfigDict, height: int, width: int) -> dict[str, np.ndarray]:
  """Seconds of each of PROGRAMS in each round, [ROUNDS] (`in_rounds`)."""
  model = single_pass(assemble.model(config, assemble.dataset(config).info.num_classes))
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (1, height, width, 3), np.uint8)
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)
  variables = jax.device_put(jax.tree.map(lambda leaf: _ordinary(leaf, rng), shapes))
  parts = {"segmenter": model.clone(guidance=None, subnets=None), "guided": model.clone(subnets=None)}
  same = {"guided": "network"} if model.subnets is None else {}
  same |= {"segmenter": "guided"} if model.guidance is None else {}
  programs = {
    name: jax.jit(functools.partial(infer, parts.get(name, model), wanted=wanted))
    for name, wanted in PROGRAMS.items()
    if name not in same
  }
  found = in_rounds(programs, ROUNDS, variables, image)
  for name, other in same.items():
    found[name] = found[other]
  return found


def _ordinary(leaf: jax.ShapeDtypeStruct, rng: np.random.Generator) -> np.ndarray:
  """Numbers that keep activations at an ordinary size; the model's own initialisers take minutes to compile."""
  if len(leaf.shape) < 2:
    return np.ones(leaf.shape, leaf.dtype)
  return (rng.standard_normal(leaf.shape) * np.prod(leaf.shape[:-1]) ** -0.5).astype(leaf.dtype)


def bench_model(config: ConfigDict, height: int, width: int, as_json: bool) -> None:
  """Prints the cost as a table, or as one JSON object."""
  cost = model_cost(config, height, width)
  if as_json:
    print(json.dumps(cost, indent=1))
    return
  name = f"{config.segmenter.backbone.name} + {config.segmenter.head.name}"
  table = Table(title=f"{name}, {height}x{width} pixels, batch 1, {cost['hardware']['device']}")
  for column in ("group", "parameters", "multiply-adds", "ms", "% of the network"):
    table.add_column(column, justify="right" if column != "group" else "left")
  for group, row in {**cost["groups"], "both branches": cost["branches"]}.items():
    counts = (f"{row['parameters']:,}", f"{row['multiply_adds'] / 1e9:,.2f} G")
    table.add_row(group, *counts, f"{row['ms']:,.1f}", f"{row['share']:.1f}")
  Console().print(table)
