"""`errseg bench`: what a config's network costs.

`--what=size`: parameters and multiply-adds of each part, from shapes alone: nothing is computed. `--what=model`: of
the network and each branch, with the milliseconds they take on the device at hand.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from errseg_jax import build
from errseg_jax.errors import UserError
from errseg_jax.evaluate import hardware
from errseg_jax.models.error_aware import ErrorAware, infer

AUXILIARY = "segmenter/head/auxiliary"
GROUPS = ("segmenter/backbone", AUXILIARY, "segmenter/head", "subnets", "detail", "error")
"""Parts of a network; the auxiliary head works in training only, and published counts are without it."""
WHAT = ("size", "model")
COUNTS = ("parameters", "multiply_adds")
ROUNDS = 15  # of one run of each program
PROGRAMS: dict[str, tuple[str, ...]] = {
  "segmenter": (),
  "network": (),  # with its subnets
  "error": ("error",),
  "detail": ("detail",),
  "both": ("error", "detail"),
}


def image_size(text: str) -> tuple[int, int]:
  """ "1025x2049" -> (1025, 2049), height first.

  Raises:
    UserError: it is not of that form.
  """
  match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
  if not match:
    raise UserError(f"--size={text}: write HEIGHTxWIDTH in pixels, for example --size=1025x2049")
  return int(match[1]), int(match[2])


def size(config: ConfigDict, height: int, width: int) -> dict[str, Any]:
  """Parameters and multiply-adds of each group of a config's network, for one image.

  Args:
    config: of the run; its data set says how many classes there are.
    height: of the image, pixels.
    width: see height.

  Returns:
    {"image_size": [height, width], "groups": {group: {"parameters", "multiply_adds"}}, "total": {same}}, of the
    groups that the network has. Batch statistics are no parameters. Multiply-adds are those of convolutions, as
    published tables count them: normalisation, activations and resizing are left out.
  """
  model = build.model(config, build.dataset(config).info.num_classes)
  image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.uint8)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  parameters = parameter_counts(variables["params"])
  adds = multiply_adds(model, variables, image)
  groups = {g: {"parameters": parameters[g], "multiply_adds": adds[g]} for g in GROUPS if parameters[g]}
  total = {key: sum(group[key] for group in groups.values()) for key in ("parameters", "multiply_adds")}
  return {"image_size": [height, width], "groups": groups, "total": total}


def parameter_counts(params: Any) -> dict[str, int]:
  """{group: numbers in its arrays}."""

  out = dict.fromkeys(GROUPS, 0)
  for path, leaf in traverse_util.flatten_dict(params, sep="/").items():
    out[_group(path)] += leaf.size
  return out


def _group(path: str) -> str:
  return next(group for group in GROUPS if f"{path}/".startswith(f"{group}/"))


def multiply_adds(model: ErrorAware, variables: Any, image: jax.ShapeDtypeStruct) -> dict[str, int]:
  """{group: multiply-adds of its convolutions in one forward pass}."""
  program = jax.make_jaxpr(lambda variables, image: infer(model, variables, image))(variables, image)
  out = dict.fromkeys(GROUPS, 0)
  for scope, count in convolutions(program.jaxpr, ""):
    out[_group(scope.split("/", 1)[1])] += count  # behind the name of the whole model
  return out


def convolutions(program: Any, scope: str) -> Iterator[tuple[str, int]]:
  """(module scope, multiply-adds) of every convolution of a jaxpr."""
  for equation in program.eqns:
    own = f"{scope}/{equation.source_info.name_stack}".strip("/")
    if equation.primitive.name == "conv_general_dilated":
      yield own, _multiply_adds(equation)
    elif (
      equation.primitive.name == "cond"
    ):  # the same operation in forms for several platforms: only one runs
      branches = [list(convolutions(b.jaxpr, own)) for b in equation.params["branches"]]
      yield from max(branches, key=lambda found: sum(count for _, count in found))
    else:
      for inner in jax.tree.leaves(list(equation.params.values())):
        inner = getattr(inner, "jaxpr", inner)
        if hasattr(inner, "eqns"):
          yield from convolutions(inner, own)


def _multiply_adds(equation: Any) -> int:
  """Output positions times the kernel that makes each: k * k * input channels of a group."""
  kernel, numbers = equation.invars[1].aval.shape, equation.params["dimension_numbers"]
  outputs = kernel[numbers.rhs_spec[0]]
  return int(np.prod(equation.outvars[0].aval.shape) * (np.prod(kernel) // outputs))


def bench_size(config: ConfigDict, height: int, width: int, as_json: bool) -> None:
  """Prints the sizes as a table, or as one JSON object."""
  sizes = size(config, height, width)
  if as_json:
    print(json.dumps(sizes, indent=1))
    return
  table = Table(
    title=f"{config.segmenter.backbone.name} + {config.segmenter.head.name}, {height}x{width} pixels"
  )
  table.add_column("group")
  table.add_column("parameters", justify="right")
  table.add_column("multiply-adds", justify="right")
  for name, row in {**sizes["groups"], "total": sizes["total"]}.items():
    table.add_row(name, f"{row['parameters']:,}", f"{row['multiply_adds'] / 1e9:,.2f} G")
  Console().print(table)


def model_cost(config: ConfigDict, height: int, width: int) -> dict[str, Any]:
  """Parameters, multiply-adds and time of the network and of each branch, batch 1, with random weights.

  Args:
    config: of the run; its data set says how many classes there are.
    height: of the image, pixels.
    width: see height.

  Returns:
    {"image_size", "hardware", "groups": {"segmenter" | "subnets" | "error" | "detail": {"parameters",
    "multiply_adds", "ms", "share"}}, "branches": {same}}; "subnets" where the network has some. "ms" of the segmenter
    is the median over the rounds, of a branch the median of what it adds in a round; an error branch that reads the
    detail branch's logits is charged what it adds to both. "share": percent of the segmenter's time.
    "branches" are both at once.
  """
  sizes = size(config, height, width)["groups"]
  groups = {
    name: {key: sum(v[key] for g, v in sizes.items() if g.split("/")[0] == name) for key in COUNTS}
    for name in ("segmenter", "subnets", "error", "detail")
  }
  seconds = times(config, height, width)
  below = "detail" if config.error_branch.get("prior", "none") == "detail" else "network"
  full = "both" if below == "detail" else "error"
  added = {
    "error": seconds[full] - seconds[below],
    "detail": seconds["detail"] - seconds["network"],
    "branches": seconds["both"] - seconds["network"],
    "subnets": seconds["network"] - seconds["segmenter"],
  }
  base = float(np.median(seconds["segmenter"]))
  both = {key: groups["error"][key] + groups["detail"][key] for key in COUNTS}
  rows: dict[str, Any] = {"segmenter": groups["segmenter"] | {"ms": 1000 * base, "share": 100.0}}
  parts = (("subnets",) if "subnets" in config.order else ()) + ("error", "detail")
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
  """Seconds of each of PROGRAMS in each round, [ROUNDS]; compilation and a first run come before.

  In a round every program runs once, so that a busy moment of the machine meets all of them.
  """
  model = build.model(config, build.dataset(config).info.num_classes)
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (1, height, width, 3), np.uint8)
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)
  variables = jax.device_put(jax.tree.map(lambda leaf: _ordinary(leaf, rng), shapes))
  programs = {name: jax.jit(functools.partial(infer, model, wanted=w)) for name, w in PROGRAMS.items()}
  if model.subnets is None:
    del programs["network"]
  else:
    programs["segmenter"] = jax.jit(functools.partial(infer, model.clone(subnets=None), wanted=()))
  for program in programs.values():
    jax.block_until_ready(program(variables, image))
  seconds = np.zeros((len(programs), ROUNDS))
  for k in range(ROUNDS):
    for i, program in enumerate(programs.values()):
      start = time.perf_counter()
      jax.block_until_ready(program(variables, image))
      seconds[i, k] = time.perf_counter() - start
  found = dict(zip(programs, seconds, strict=True))
  return {"network": found["segmenter"]} | found


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
