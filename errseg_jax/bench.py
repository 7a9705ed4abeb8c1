"""`errseg bench --what=size`: parameters and multiply-adds of a config, from shapes alone: nothing is computed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from errseg_jax import build
from errseg_jax.errors import UserError
from errseg_jax.models.error_aware import ErrorAware, infer

GROUPS = ("segmenter/backbone", "segmenter/head", "detail", "error")
WHAT = ("size",)


def image_size(text: str) -> tuple[int, int]:
  """"1025x2049" -> (1025, 2049), height first.

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
    {"image_size": [height, width], "groups": {group: {"parameters", "multiply_adds"}}, "total": {same}}. Batch
    statistics are no parameters. Multiply-adds are those of convolutions, as published tables count them:
    normalisation, activations and resizing are left out.
  """
  model = build.model(config, build.dataset(config).info.num_classes)
  image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.uint8)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  parameters = parameter_counts(variables["params"])
  adds = multiply_adds(model, variables, image)
  groups = {g: {"parameters": parameters[g], "multiply_adds": adds[g]} for g in GROUPS}
  total = {key: sum(group[key] for group in groups.values()) for key in ("parameters", "multiply_adds")}
  return {"image_size": [height, width], "groups": groups, "total": total}


def parameter_counts(params: Any) -> dict[str, int]:
  """{group: numbers in its arrays}."""

  def count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))

  parts = {"segmenter/" + name: tree for name, tree in params["segmenter"].items()} | params
  return {group: count(parts.get(group, {})) for group in GROUPS}


def multiply_adds(model: ErrorAware, variables: Any, image: jax.ShapeDtypeStruct) -> dict[str, int]:
  """{group: multiply-adds of its convolutions in one forward pass}."""
  program = jax.make_jaxpr(lambda variables, image: infer(model, variables, image))(variables, image)
  out = dict.fromkeys(GROUPS, 0)
  for scope, count in convolutions(program.jaxpr, ""):
    module = scope.split("/", 1)[1]  # behind the name of the whole model
    out[next(g for g in GROUPS if f"{module}/".startswith(f"{g}/"))] += count
  return out


def convolutions(program: Any, scope: str) -> Iterator[tuple[str, int]]:
  """(module scope, multiply-adds) of every convolution of a jaxpr."""
  for equation in program.eqns:
    own = f"{scope}/{equation.source_info.name_stack}".strip("/")
    if equation.primitive.name == "conv_general_dilated":
      yield own, _multiply_adds(equation)
    elif equation.primitive.name == "cond":  # the same operation in forms for several platforms: only one runs
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
  table = Table(title=f"{config.segmenter.backbone.name} + {config.segmenter.head.name}, {height}x{width} pixels")
  table.add_column("group")
  table.add_column("parameters", justify="right")
  table.add_column("multiply-adds", justify="right")
  for name, row in {**sizes["groups"], "total": sizes["total"]}.items():
    table.add_row(name, f"{row['parameters']:,}", f"{row['multiply_adds'] / 1e9:,.2f} G")
  Console().print(table)
