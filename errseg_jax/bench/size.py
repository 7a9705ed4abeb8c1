"""Parameters and multiply-adds of each part of a network, from shapes alone: nothing is computed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict
from rich.table import Table

from errseg_jax import assemble
from errseg_jax.errors import UserError
from errseg_jax.models.error_aware import ErrorAware, infer, single_pass

AUXILIARY = "segmenter/head/auxiliary"
GROUPS = ("segmenter/backbone", AUXILIARY, "segmenter/head", "guidance", "subnets", "detail", "error")
"""Parts of a network; the auxiliary head works in training only, and published counts are without it."""


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
    {"network": backbone and head, "image_size": [height, width], "groups": {group: {"parameters", "multiply_adds"}},
    "total": {same}}, of the groups that the network has. Batch statistics are no parameters. Multiply-adds are those of
    convolutions and fully connected layers, as published tables count them: normalisation, activations and resizing are
    left out.
  """
  model = single_pass(assemble.model(config, assemble.dataset(config).info.num_classes))
  image = jax.ShapeDtypeStruct((1, height, width, model.image_channels), jnp.uint8)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  parameters = parameter_counts(variables["params"])
  adds = multiply_adds(model, variables, image)
  groups = {g: {"parameters": parameters[g], "multiply_adds": adds[g]} for g in GROUPS if parameters[g]}
  total = {key: sum(group[key] for group in groups.values()) for key in ("parameters", "multiply_adds")}
  network = f"{config.segmenter.backbone.name} + {config.segmenter.head.name}"
  return {"network": network, "image_size": [height, width], "groups": groups, "total": total}


def parameter_counts(params: Any) -> dict[str, int]:
  """{group: numbers in its arrays}."""

  out = dict.fromkeys(GROUPS, 0)
  for path, leaf in traverse_util.flatten_dict(params, sep="/").items():
    out[_group(path)] += leaf.size
  return out


def _group(path: str) -> str:
  return next(group for group in GROUPS if f"{path}/".startswith(f"{group}/"))


def multiply_adds(model: ErrorAware, variables: Any, image: jax.ShapeDtypeStruct) -> dict[str, int]:
  """{group: multiply-adds of its convolutions and fully connected layers in one forward pass}."""
  program = jax.make_jaxpr(lambda variables, image: infer(model, variables, image))(variables, image)
  out = dict.fromkeys(GROUPS, 0)
  for scope, count in convolutions(program.jaxpr, ""):
    # Behind the name of the whole model; names with a dot are those of methods.
    path = "/".join(part for part in scope.split("/")[1:] if "." not in part)
    out[_group(path)] += count
  return out


def convolutions(program: Any, scope: str) -> Iterator[tuple[str, int]]:
  """(module scope, multiply-adds) of every convolution of a jaxpr, and of the guidance's fully connected layers."""
  for equation in program.eqns:
    own = f"{scope}/{equation.source_info.name_stack}".strip("/")
    if equation.primitive.name == "conv_general_dilated":
      yield own, _multiply_adds(equation)
    elif equation.primitive.name == "dot_general" and "guidance" in own.split("/"):
      yield own, int(np.prod(equation.outvars[0].aval.shape)) * equation.invars[1].aval.shape[0]
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


def table(sizes: dict[str, Any]) -> Table:
  """The sizes as a table."""
  height, width = sizes["image_size"]
  out = Table(title=f"{sizes['network']}, {height}x{width} pixels")
  out.add_column("group")
  out.add_column("parameters", justify="right")
  out.add_column("multiply-adds", justify="right")
  for name, row in {**sizes["groups"], "total": sizes["total"]}.items():
    out.add_row(name, f"{row['parameters']:,}", f"{row['multiply_adds'] / 1e9:,.2f} G")
  return out
