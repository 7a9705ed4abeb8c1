"""The error branches by the names that configs use."""

from __future__ import annotations

from errseg_jax.models.cascade import AttentionBranch
from errseg_jax.models.error_branch import ErrorBranch

ERROR_BRANCHES: dict[str, type[ErrorBranch] | type[AttentionBranch]] = {
  "error": ErrorBranch,
  "attention": AttentionBranch,
}
