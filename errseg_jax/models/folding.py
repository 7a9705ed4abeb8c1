"""Batch normalisation at rest, folded into the convolutions before it.

A network at rest computes conv(x, k) * gain + offset; conv(x, k * gain) + offset is the same with one product less
for each pixel and channel.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from errseg_jax.models.layers import BatchNorm, DepthwiseConv

Path = tuple[str, ...]


def foldable(model: nn.Module) -> dict[Path, tuple[Path, float]]:
  """Path of a batch normalisation -> (path of the convolution whose output it alone reads, its epsilon).

  Found by running the network on shapes, so it holds for whatever is made of `models.layers`; a convolution that is
  both normalised and added to something in the same method would not be noticed, and none of ours is.
  """
  made: dict[int, Path] = {}
  kept: list[Any] = []  # an object's id is its own only while the object lives
  readers: dict[Path, list[tuple[Path, float | None]]] = collections.defaultdict(list)

  def watch(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    if context.method_name != "__call__":
      return call(*args, **kwargs)
    module = context.module
    for path in (made[id(x)] for x in args if id(x) in made):
      readers[path].append((module.path, module.epsilon if isinstance(module, BatchNorm) else None))
    out = call(*args, **kwargs)
    if isinstance(module, nn.Conv | DepthwiseConv):
      made[id(out)] = module.path
      kept.append(out)
    return out

  def trace(image: jax.Array) -> Any:
    with nn.intercept_methods(watch):
      return model.init(jax.random.key(0), image)

  channels = getattr(model, "image_channels", 3)
  jax.eval_shape(
    trace, jax.ShapeDtypeStruct((1, 64, 64, channels), jnp.uint8)
  )  # any size has the same layers
  alone = {conv: own[0] for conv, own in readers.items() if len(own) == 1}
  return {norm: (conv, epsilon) for conv, (norm, epsilon) in alone.items() if epsilon is not None}


def fold(variables: Any, pairs: dict[Path, tuple[Path, float]]) -> Any:
  """The variables with the gains of `pairs`, of `foldable`, in the kernels; to be run under `folded`."""
  params = traverse_util.flatten_dict(variables["params"])
  stats = traverse_util.flatten_dict(variables.get("batch_stats", {}))
  for norm, (conv, epsilon) in pairs.items():
    mean, var = (stats[*norm, name] for name in ("mean", "var"))
    gain = params[*norm, "scale"] * jax.lax.rsqrt(var + epsilon)
    for name in ("kernel", "bias"):
      if (*conv, name) in params:
        value = params[*conv, name]
        params[*conv, name] = value * gain.reshape((1,) * (value.ndim - 1) + (-1,))
    params[*norm, "bias"] = params[*norm, "bias"] - mean * gain
  return {**variables, "params": traverse_util.unflatten_dict(params)}


@contextlib.contextmanager
def folded(norms: Collection[Path]) -> Iterator[None]:
  """Batch normalisations of these paths add their offset alone, in what is traced inside."""

  def offset(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    module = context.module
    if isinstance(module, BatchNorm) and module.path in norms:
      bias: Any = module.get_variable("params", "bias")
      return (args[0] + bias.reshape(1, 1, 1, -1)).astype(module.dtype)
    return call(*args, **kwargs)

  with nn.intercept_methods(offset):
    yield
