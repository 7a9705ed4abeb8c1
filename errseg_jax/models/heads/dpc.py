"""Dense prediction cell (Chen et al., NeurIPS 2018) with the decoder of DeepLabv3+."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from errseg_jax.models.backbones.endpoints import Endpoints
from errseg_jax.models.heads.deeplabv3plus import PlusDecoder
from errseg_jax.models.heads.dpc_cells import PUBLISHED, Branch, read_cell
from errseg_jax.models.layers import at_least_float32
from errseg_jax.models.resize import resize
from errseg_jax.structs import Features


class DPC(PlusDecoder):
  """The branches of a cell, each reading the backbone or an earlier branch, concatenated and projected; a decoder.

  Dropout stands before the projection. Published weights need `align_corners`.

  Attributes:
    cell: a JSON file with a cell, or its text (`dpc_cells.read_cell`); "" = the published one.
  """

  cell: str = ""

  @nn.compact
  def __call__(self, endpoints: Endpoints, train: bool) -> Features:
    """Endpoints -> Features with logits at stride 4 and the projection as `high`."""
    outputs: list[jax.Array] = []
    for i, branch in enumerate(read_cell(self.cell) if self.cell else PUBLISHED):
      x = endpoints.final if branch.input < 0 else outputs[branch.input]
      outputs.append(self.branch(branch, f"branch{i}", x, endpoints.output_stride, train))
    x = self.drop(jnp.concatenate(outputs, -1), self.dropout, train)
    high = self.unit(self.features, 1, name="projection")(x, train)
    return self.decode(endpoints, high, train)

  def branch(self, branch: Branch, name: str, x: jax.Array, output_stride: int, train: bool) -> jax.Array:
    """[B, h, w, K] -> [B, h, w, features]."""
    if branch.op == "pyramid_pooling":
      # Windows of the size that would tile the map, at every place where they fit.
      window = tuple((n - 1) // grid + 1 for n, grid in zip(x.shape[1:3], branch.grid, strict=True))
      pooled = nn.avg_pool(at_least_float32(x), window, (1, 1), "VALID").astype(self.dtype)
      return resize(self.unit(self.features, 1, name=name)(pooled, train), x.shape[1:3], self.align_corners)
    if branch.kernel == 1:
      return self.unit(self.features, 1, name=name)(x, train)
    down, across = (max(1, rate * 16 // output_stride) for rate in branch.rate)
    unit = self.unit(self.features, branch.kernel, dilation=(down, across), separable=True, name=name)
    return unit(x, train)
