"""What a backbone returns."""

from __future__ import annotations

import jax
from flax import struct


@struct.dataclass
class Endpoints:
  """Feature maps of a backbone.

  Attributes:
    low: maps [B, h_i, w_i, C_i], finest first.
    final: [B, h, w, C] at the output stride.
    strides: stride of each map in `low`.
    output_stride: stride of `final`.
    penultimate: [B, h, w, C] of the stage before the last, at the finer of stride 16 and the output stride: what
      auxiliary heads see; None where a backbone has no such stage.
  """

  low: tuple[jax.Array, ...]
  final: jax.Array
  strides: tuple[int, ...] = struct.field(pytree_node=False)
  output_stride: int = struct.field(pytree_node=False)
  penultimate: jax.Array | None = None
