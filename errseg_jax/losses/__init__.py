"""Losses. Each is a weighted sum over pixels divided by a global count, at least 1.

Under `jit` the sums run over the global batch, all devices and hosts. A pixel labelled 255 has weight 0; a batch
without a valid pixel gives loss 0 and gradient 0.
"""

from errseg_jax.losses.cascade import CascadeLoss
from errseg_jax.losses.class_balance import check_weighed_once
from errseg_jax.losses.detail import WEIGHTS, DetailLoss
from errseg_jax.losses.error import TARGETS, ErrorLoss, error_target
from errseg_jax.losses.guided import GuidedLoss
from errseg_jax.losses.jaccard import jaccard_loss
from errseg_jax.losses.semantic import SemanticLoss
from errseg_jax.losses.subnets import SubnetsLoss

__all__ = [
  "TARGETS",
  "WEIGHTS",
  "CascadeLoss",
  "DetailLoss",
  "ErrorLoss",
  "GuidedLoss",
  "SemanticLoss",
  "SubnetsLoss",
  "check_weighed_once",
  "error_target",
  "jaccard_loss",
]
