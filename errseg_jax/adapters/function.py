"""Any function of images, in jax or in what jax can trace."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8

from errseg_jax.adapters.factory import made
from errseg_jax.adapters.network import Network, as_they_are
from errseg_jax.errors import UserError
from errseg_jax.structs import Features


def from_function(
  fn: Callable[..., Any],
  num_classes: int,
  *,
  weights: Mapping[str, Shaped[np.ndarray, "..."] | Shaped[Array, "..."]] | None = None,
  preprocess: Callable[[UInt8[Array, "B H W 3"]], Shaped[Array, "B ..."]] | None = None,
  features: Callable[[Any], Features | Float[Array, "B h w C"]] | None = None,
) -> Network:
  """A network from a function that jax can trace.

  Args:
    fn: images -> logits [B, h, w, C] at any stride, or Features; with `weights`, (weights, images) -> the same. What it
      closes over is a constant of every program, so large weights are better given.
    num_classes: C.
    weights: by name; None: `fn` takes images alone.
    preprocess: uint8 RGB [B, H, W, 3] -> what `fn` takes, such as `network.normalised()`; None: those as they are.
    features: what `fn` returns -> logits or Features, where it returns something else.
  """
  take = features or (lambda out: out)

  def function(given: Mapping[str, jax.Array], images: jax.Array) -> Any:
    return take(fn(images) if weights is None else fn(given, images))

  return Network(function, weights or {}, num_classes, preprocess or as_they_are)


@dataclasses.dataclass(frozen=True)
class FunctionAdapter:
  """A network that the user's own code makes.

  Attributes:
    factory: "package.module:function" that returns a `Network` (of `from_function`, say) or a function images ->
      logits.
    options: its arguments, as pairs.
  """

  factory: str = ""
  options: tuple[tuple[str, Any], ...] = ()

  def network(self, num_classes: int) -> Network:
    """The network.

    Raises:
      UserError: the factory cannot be called, or returns something else.
    """
    found = made(self.factory, dict(self.options))
    if isinstance(found, Network):
      return found
    if callable(found):
      return from_function(found, num_classes)
    raise UserError(
      f"config.segmenter.adapter.factory={self.factory!r} returns {type(found).__name__}: it must be a function of "
      "images, or a Network as adapters.from_function makes it"
    )
