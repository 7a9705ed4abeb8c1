"""Networks that `jax.export` wrote."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax import export

from errseg_jax.adapters.factory import content_of
from errseg_jax.adapters.network import Network, as_they_are, normalised
from errseg_jax.errors import UserError


def from_export(
  blob: bytes,
  num_classes: int,
  *,
  weights: Mapping[str, np.ndarray | jax.Array] | None = None,
  preprocess: Callable[[jax.Array], jax.Array] | None = None,
  name: str = "the exported network",
) -> Network:
  """A network from what `jax.export.Exported.serialize` gave.

  Args:
    blob: of a function images -> logits [B, h, w, C], or (weights, images) -> the same.
    num_classes: C.
    weights: by name, where it takes some.
    preprocess: as of `from_function`.
    name: for messages.

  Raises:
    UserError: it is no such blob, or takes other arguments.
  """
  try:
    found = export.deserialize(bytearray(blob))
  except Exception as error:  # whatever flatbuffers makes of other bytes
    reason = " ".join(str(error).split())[:200]
    raise UserError(f"{name}: is no function of jax.export ({type(error).__name__}: {reason})") from None
  wanted = 1 if weights is None else 1 + len(weights)
  if len(found.in_avals) != wanted:
    raise UserError(
      f"{name}: takes {len(found.in_avals)} arrays, and images{' and weights' * (weights is not None)} are {wanted}"
    )

  def function(given: Mapping[str, jax.Array], images: jax.Array) -> Any:
    return found.call(images) if weights is None else found.call(dict(given), images)

  return Network(function, weights or {}, num_classes, preprocess or as_they_are)


@dataclasses.dataclass(frozen=True)
class ExportAdapter:
  """A file that `jax.export` wrote.

  Attributes:
    path: of a function images -> logits; its sizes are symbolic, or those of every image and crop.
    images: "uint8", RGB as they are, or "float32", normalised.
    mean: of the normalisation, RGB, 0..255.
    std: see mean.
  """

  path: str = ""
  images: str = "uint8"
  mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
  std: tuple[float, float, float] = (58.395, 57.12, 57.375)

  def network(self, num_classes: int) -> Network:
    """The network.

    Raises:
      UserError: no such file, or it is no such function.
    """
    if self.images not in ("uint8", "float32"):
      raise UserError(f"config.segmenter.adapter.images={self.images!r} must be 'uint8' or 'float32'")
    preprocess = normalised(self.mean, self.std) if self.images == "float32" else None
    return from_export(content_of(self.path), num_classes, preprocess=preprocess, name=self.path)
