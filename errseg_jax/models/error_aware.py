"""The whole network: a segmentation network with its error and detail branches."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax
from flax import linen as nn

from errseg_jax.models.error_branch import unweighted
from errseg_jax.models.layers import resize
from errseg_jax.structs import Outputs


class ErrorAware(nn.Module):
  """Frozen segmenter, error branch, detail branch; each is one top-level group of the parameters.

  Attributes:
    segmenter: image -> Features.
    error: (image, Features, semantic, detail) -> error logit.
    detail: (image, Features, semantic) -> logits; a cascade gives those of its stages too.
    detail_weights: class weights in the detail branch's loss. Rare classes gain by them; what the branch thinks
      of the frozen label would be tilted, so the error branch sees its logits without them.
  """

  segmenter: nn.Module
  error: nn.Module
  detail: nn.Module
  detail_weights: tuple[float, ...] = ()

  @nn.compact
  def __call__(
    self,
    image: jax.Array,
    train: Collection[str] = (),
    wanted: Collection[str] = ("error", "detail"),
  ) -> Outputs:
    """One forward pass, the same in training, evaluation and prediction.

    Args:
      image: uint8 [B, H, W, 3].
      train: groups in training mode; in every other group batch statistics and dropout are at rest.
      wanted: branches to run.

    Returns:
      Outputs at the image's size.
    """
    features, size = self.segmenter(image, "segmenter" in train), image.shape[1:3]
    semantic = resize(features.logits, size, features.align_corners)
    detail, error, auxiliary, stages = None, None, None, ()
    if features.auxiliary is not None:
      auxiliary = resize(features.auxiliary, size, features.align_corners)
    if "detail" in wanted or ("error" in wanted and self.error.prior == "detail"):
      detail = self.detail(image, features, semantic, "detail" in train)
      if isinstance(detail, tuple):
        detail, stages = detail
    if "error" in wanted:
      belief = None if detail is None else unweighted(detail, self.detail_weights)
      error = self.error(image, features, semantic, belief, "error" in train)
    return Outputs(semantic, error, detail, auxiliary, stages if "detail" in train else ())


def infer(
  model: ErrorAware, variables: Any, image: jax.Array, wanted: Collection[str] = ("error", "detail")
) -> Outputs:
  """The forward pass with every group at rest."""
  outputs: Any = model.apply(variables, image, wanted=wanted)
  return outputs
