"""A trained network as a function of its weights and of images, written by `jax.export`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from errseg_jax.errors import UserError
from errseg_jax.inference.network import TrainedNetwork

PLATFORMS = ("cpu", "cuda", "tpu")
RGB = 3
Maps = dict[str, jax.Array]


def exportable(network: TrainedNetwork) -> TrainedNetwork:
  """The network as it is written: every pixel through every branch, its fused operations in plain XLA.

  Early exit and sparse correction save time by what they find in an image, and give other labels. Pallas kernels are
  programs of one kind of device; bands are the same arithmetic for all.

  Raises:
    UserError: it is one that cannot be written.
  """
  config, model = network.config, network.model
  if model.image_channels != RGB:
    raise UserError(
      "errseg export: the frozen network is saved scores (config.segmenter.adapter), which are in files and in no "
      "program; export a run whose network jax can trace, as docs/your_network.md lists them"
    )
  if config.dtype == "float64":
    raise UserError("errseg export: config.dtype='float64' is for tests; set --config.dtype=float32")
  kernels = "reference" if model.kernels == "reference" else "banded"
  return dataclasses.replace(network, model=model.clone(early_exit=None, sparse=None, kernels=kernels))


class Program:
  """A network whose weights are arguments, so that the programs of all sizes share them.

  Args:
    network: of `exportable`.

  Attributes:
    weights: by name, those that it reads.
    platforms: that it can be lowered for: all, or those of a program of `jax.export` that is a part of it.
  """

  def __init__(self, network: TrainedNetwork):
    self.network = network
    paths, self._layout = jax.tree_util.tree_flatten_with_path(network.resting)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
    if len({*names}) < len(names):
      raise UserError("errseg export: two weights of the network would get one name: rename one")
    self._shapes = {
      name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, (_, x) in zip(names, paths, strict=True)
    }
    # Of any size the same weights are read: folded statistics and heads that only training has are not.
    side = math.ceil(64 / network.config.loader.size_multiple) * network.config.loader.size_multiple
    image = jax.ShapeDtypeStruct((*(side + network.config.segmenter.size_remainder,) * 2, RGB), jnp.uint8)
    traced = jax.make_jaxpr(self._single)(self._shapes, image)
    read = {id(var) for equation in traced.jaxpr.eqns for var in equation.invars}
    in_order = zip(sorted(self._shapes), traced.jaxpr.invars, strict=False)  # behind them comes the image
    kept = {name for name, var in in_order if id(var) in read}
    self.weights: dict[str, np.ndarray] = {
      name: np.asarray(x, order="C") for name, (_, x) in zip(names, paths, strict=True) if name in kept
    }
    self._inner = [*inner_programs(traced.jaxpr)]
    self.platforms = tuple(p for p in PLATFORMS if all(p in inner.platforms for inner in self._inner))

  def _single(self, weights: Mapping[str, jax.Array], image: jax.Array) -> Maps:
    """Maps [H, W] of an image uint8 [H, W, 3]."""
    leaves = [
      weights[name] if name in weights else jnp.zeros(like.shape, like.dtype)
      for name, like in self._shapes.items()
    ]
    variables = jax.tree.unflatten(self._layout, leaves)
    told = self.network.forward(variables, image[None], self.network.choice.arrays())
    return {field.name: getattr(told, field.name)[0] for field in dataclasses.fields(told)}

  def __call__(self, weights: Mapping[str, jax.Array], images: jax.Array) -> Maps:
    """Maps [b, H, W] of images uint8 [b, H, W, 3]; of each what it gives alone, as `predict` has it.

    One after another on a CPU, which is faster there and the same to the last bit; side by side elsewhere.
    """

    def in_turn(images: jax.Array) -> Maps:
      return jax.lax.map(lambda image: self._single(weights, image), images)

    def side_by_side(images: jax.Array) -> Maps:
      return jax.vmap(lambda image: self._single(weights, image))(images)

    if self._inner:  # a program of jax.export has no rule for vmap
      return in_turn(images)
    return jax.lax.platform_dependent(images, cpu=in_turn, default=side_by_side)

  def serialized(self, size: tuple[int, int]) -> bytes:
    """What `jax.export.deserialize` reads: (weights, images uint8 [b, *size, 3], b any) -> maps [b, *size].

    Raises:
      UserError: a given network holds what no program can, such as a call back to Python.
    """
    (batch,) = export.symbolic_shape("b")
    shapes = {name: self._shapes[name] for name in self.weights}
    images = jax.ShapeDtypeStruct((batch, *size, RGB), jnp.uint8)
    try:
      found = export.export(jax.jit(self.__call__), platforms=self.platforms)(shapes, images)
      return bytes(found.serialize())
    except Exception as error:  # of whatever the user's own code is made of; of ours it is a fault
      if not self.network.config.segmenter.adapter:
        raise
      reason = " ".join(str(error).split())[:200]
      raise UserError(
        f"errseg export: the given network (config.segmenter.adapter) cannot be part of a program for images of "
        f"{size[0]}x{size[1]} ({type(error).__name__}: {reason})"
      ) from None


def inner_programs(program: Any) -> Iterator[export.Exported]:
  """Programs of `jax.export` that a jaxpr calls."""
  for equation in program.eqns:
    if isinstance(found := equation.params.get("exported"), export.Exported):
      yield found
    for inner in jax.tree.leaves(list(equation.params.values())):
      inner = getattr(inner, "jaxpr", inner)
      if hasattr(inner, "eqns"):
        yield from inner_programs(inner)
