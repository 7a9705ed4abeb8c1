"""The detail branches by the names that configs use."""

from __future__ import annotations

from errseg_jax.models.cascade import PyramidBranch
from errseg_jax.models.detail_branch import DetailBranch
from errseg_jax.models.layer_cascade import LayerCascade

DETAIL_BRANCHES: dict[str, type[DetailBranch] | type[PyramidBranch]] = {
  "detail": DetailBranch,
  "layer_cascade": LayerCascade,
  "pyramid": PyramidBranch,
}
