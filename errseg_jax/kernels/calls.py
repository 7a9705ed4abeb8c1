"""A Pallas call over the cells of a layout, for TPU, GPU or the interpreter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as pltriton

from errseg_jax.kernels.layout import LANES, Layout, tile_rows
from errseg_jax.kernels.tile import SCALARS
from errseg_jax.structs import Coarse

TILES = {"tpu": 0, "gpu": 1, "interpret": 0}
"""Groups of 128 cells in a program: a whole row on TPU, whose blocks must be whole; one on GPU, 128 threads."""


@dataclasses.dataclass(frozen=True)
class Arrays:
  """What every kernel reads.

  Attributes:
    coarse: the maps as they were given, and their settings.
    maps: [B, neighbours across, C, rows, width, 128] by name.
    tables: numbers in all lanes, [..., 1, 128], by name.
  """

  coarse: Coarse
  maps: dict[str, jax.Array]
  tables: dict[str, jax.Array]

  @classmethod
  def of(cls, coarse: Coarse, layout: Layout, **tables: jax.Array) -> Arrays:
    """Maps by cells, and the weights of their neighbours beside `tables`."""
    maps = {}
    for name, down, across in layout.taps:
      x = getattr(coarse, name)
      maps[name] = layout.lanes(layout.across(x[..., None] if x.ndim == 3 else x, down, across))
    return cls(coarse, maps, {"weights": layout.weights(), **tables})


def scalars(coarse: Coarse, choice: Mapping[str, jax.Array]) -> jax.Array:
  """`tile.SCALARS`, [6, 1, 128], from a coarse map's prior and the arrays of a calibration or a choice."""
  values = {"prior_scale": coarse.prior_scale, "prior_offset": coarse.prior_offset, **choice}
  default = {"scale": 1.0, "offset": 0.0, "threshold": 0.5, "temperature": 1.0}
  found = [values.get(name, default.get(name)) for name in SCALARS]
  return tile_rows(jnp.stack([jnp.float32(0.0 if x is None else x) for x in found]))


def class_rows(
  coarse: Coarse,
  weights: tuple[float, ...],
  unweight: Any = 0.0,
  diagonal: jax.Array | None = None,
) -> jax.Array:
  """`tile.CLASS_ROWS`, [4 C, 1, 128]."""
  num_classes = coarse.semantic.shape[-1]
  one = jnp.ones(num_classes, jnp.float32)
  weight = jnp.asarray(weights, jnp.float32) if weights else one
  shift = jnp.log(jnp.asarray(coarse.detail_weights, jnp.float32)) if coarse.detail_weights else 0 * one
  rows = (weight, shift, unweight * jnp.log(weight), one if diagonal is None else diagonal)
  return tile_rows(jnp.stack(rows).ravel())


def whole(x: jax.Array) -> pl.BlockSpec:
  """All of a table, in every program."""
  return pl.BlockSpec(x.shape, lambda b, i, j: (0,) * x.ndim)


def by_image(x: jax.Array) -> pl.BlockSpec:
  """An image's part [1, ..., 1, 128] of a table."""
  return pl.BlockSpec((1, *x.shape[1:]), lambda b, i, j: (b, *(0,) * (x.ndim - 1)))


def by_cell(shape: tuple[int, ...], layout: Layout, step: int = 1, tap: int = 0) -> pl.BlockSpec:
  """A program's tile of [B, ..., rows, width, 128]; rows from one cell to the next and the neighbour's own."""
  middle = shape[1:-3]
  block = (1, *middle, 1, layout.tile, LANES)
  return pl.BlockSpec(block, lambda b, i, j: (b, *(0,) * len(middle), i * step + tap, j, 0))


def call(
  kernel: Callable[[dict[Any, Any]], None],
  arrays: Arrays,
  more: Mapping[str, jax.Array],
  shapes: Mapping[Any, tuple[int, ...]],
  layout: Layout,
  platform: str,
  dtypes: Mapping[Any, Any] | None = None,
) -> dict[Any, jax.Array]:
  """Runs a kernel on every tile of every image.

  Args:
    kernel: function of its references by name.
    arrays: maps and tables.
    more: further tables by image [B, ..., 1, 128], and labels [B, phases, rows, width, 128] as "label".
    shapes: of the outputs [B, ..., rows, width, 128].
    layout: of the maps.
    platform: "tpu", "gpu" or "interpret".
    dtypes: of the outputs; float32 where not named.
  """
  names: list[Any] = []
  inputs, specs = [], []
  for name, down, _ in layout.taps:
    x = arrays.maps[name]
    for tap in range(down.count):  # the same array, a row further down
      names.append((name, tap))
      inputs.append(x)
      specs.append(by_cell(x.shape, layout, down.step, tap))
  for name, x in arrays.tables.items():
    names.append(name)
    inputs.append(x)
    specs.append(whole(x))
  for name, x in more.items():
    names.append(name)
    inputs.append(x)
    specs.append(by_cell(x.shape, layout) if name == "label" else by_image(x))
  names += shapes

  def body(*refs):
    kernel(dict(zip(names, refs, strict=True)))

  kinds = dict.fromkeys(shapes, jnp.float32) | dict(dtypes or {})
  out = pl.pallas_call(
    body,
    grid=layout.grid,
    in_specs=specs,
    out_specs=[by_cell(shape, layout) for shape in shapes.values()],
    out_shape=[jax.ShapeDtypeStruct(shape, kinds[name]) for name, shape in shapes.items()],
    interpret=platform == "interpret",
    compiler_params=params(platform),
  )(*inputs)
  return dict(zip(shapes, out, strict=True))


def params(platform: str) -> Any:
  """Compiler parameters, always named: what none of them means changes with the version of jax."""
  if platform == "tpu":
    return pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "parallel"))
  if platform == "gpu":
    return pltriton.CompilerParams(num_warps=4, num_stages=1)
  return None
