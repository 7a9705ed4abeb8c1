"""errseg_jax: where is a segmentation network wrong, and what is right there.

import errseg_jax as errseg
out = errseg.load("runs/demo").predict(image)      # uint8 [H, W, 3]
out.labels, out.semantic_labels, out.error_probability, out.confidence
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from errseg_jax.errors import UserError

if TYPE_CHECKING:
  from errseg_jax.inference.network import TrainedNetwork

__version__ = "0.1.0"
__all__ = ["UserError", "__version__", "load"]


def load(workdir: str) -> TrainedNetwork:
  """The trained network of a workdir; see `train.restore.load`."""
  from errseg_jax.train.restore import load as load_network

  return load_network(workdir)
