"""What a network and each of its branches cost on the device at hand, with random weights."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.table import Table

from errseg_jax import assemble
from errseg_jax.bench.roofline import flop_rate, temporary_bytes
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
    {"network", "image_size", "hardware", "flops_per_second", "groups": {"segmenter" | "guidance" | "subnets" | "error"
    | "detail": {"parameters", "multiply_adds", "ms", "share", "share_of_flops"}}, "branches": {same}, "images_per_s",
    "temporary_MB"}, of the parts that the network has. "ms" of the segmenter is the median over the rounds, of a branch
    the median of what it adds in a round; an error branch that reads the detail branch's logits is charged what it adds
    to both. "share": percent of the segmenter's time.
    "branches" are both at once. "share_of_flops": of the operations per second of a large product of matrices in the
    same run. "images_per_s" and "temporary_MB", what a program needs beside weights, image and results, are of the
    network with both branches.
  """
  sizes = size(config, height, width)
  groups = {
    name: {key: sum(v[key] for g, v in sizes["groups"].items() if g.split("/")[0] == name) for key in COUNTS}
    for name in ("segmenter", *ADDED, "error", "detail")
  }
  seconds, temporary = measured(config, height, width)
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
  rate = flop_rate(config.dtype)
  rows: dict[str, Any] = {"segmenter": groups["segmenter"] | {"ms": 1000 * base, "share": 100.0}}
  parts = (*(part for part in ADDED if groups[part]["parameters"]), "error", "detail")
  for name, counts in (*((part, groups[part]) for part in parts), ("branches", both)):
    value = float(np.median(added[name]))
    rows[name] = counts | {"ms": 1000 * value, "share": 100 * value / base}
  for row in rows.values():
    row["share_of_flops"] = 2 * row["multiply_adds"] / (row["ms"] / 1000) / rate if row["ms"] > 0 else 0.0
  return {
    "network": sizes["network"],
    "image_size": [height, width],
    "hardware": hardware(),
    "flops_per_second": rate,
    "images_per_s": 1 / float(np.median(seconds["both"])),
    "temporary_MB": temporary / 1e6,
    "branches": rows.pop("branches"),
    "groups": rows,
  }


def measured(config: ConfigDict, height: int, width: int) -> tuple[dict[str, np.ndarray], int]:
  """(seconds of each of PROGRAMS in each round, [ROUNDS] (`in_rounds`), temporary bytes of the last)."""
  model = single_pass(assemble.model(config, assemble.dataset(config).info.num_classes))
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (1, height, width, model.image_channels), np.uint8)
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)
  variables = jax.device_put(jax.tree.map(lambda leaf: ordinary(leaf, rng), shapes))
  parts = {"segmenter": model.clone(guidance=None, subnets=None), "guided": model.clone(subnets=None)}
  same = {"guided": "network"} if model.subnets is None else {}
  same |= {"segmenter": "guided"} if model.guidance is None else {}
  programs = {
    name: jax.jit(functools.partial(infer, parts.get(name, model), wanted=wanted))
    .lower(variables, image)
    .compile()
    for name, wanted in PROGRAMS.items()
    if name not in same
  }
  found = in_rounds(programs, ROUNDS, variables, image)
  for name, other in same.items():
    found[name] = found[other]
  return found, temporary_bytes(programs["both"])


def ordinary(leaf: jax.ShapeDtypeStruct, rng: np.random.Generator) -> np.ndarray:
  """Numbers that keep activations at an ordinary size; the model's own initialisers take minutes to compile."""
  if len(leaf.shape) < 2:
    return np.ones(leaf.shape, leaf.dtype)
  return (rng.standard_normal(leaf.shape) * np.prod(leaf.shape[:-1]) ** -0.5).astype(leaf.dtype)


def table(cost: dict[str, Any]) -> Table:
  """The cost as a table."""
  height, width = cost["image_size"]
  out = Table(title=f"{cost['network']}, {height}x{width} pixels, batch 1, {cost['hardware']['device']}")
  for column in ("group", "parameters", "multiply-adds", "ms", "% of the network", "% of peak FLOPs"):
    out.add_column(column, justify="right" if column != "group" else "left")
  for group, row in {**cost["groups"], "both branches": cost["branches"]}.items():
    counts = (f"{row['parameters']:,}", f"{row['multiply_adds'] / 1e9:,.2f} G")
    out.add_row(
      group, *counts, f"{row['ms']:,.1f}", f"{row['share']:.1f}", f"{100 * row['share_of_flops']:.0f}"
    )
  out.caption = (
    f"with both branches {cost['images_per_s']:.1f} images/s, {cost['temporary_MB']:,.0f} MB beside weights"
  )
  return out
