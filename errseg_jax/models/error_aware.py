"""The whole network: a segmentation network, its guidance and subnets, error and detail branches; or a cascade."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Sequence
from typing import Any

import jax
from flax import linen as nn

from errseg_jax.models.cascade import Refine
from errseg_jax.models.confusion_groups import fuse_groups
from errseg_jax.models.detail_branch import DetailBranch
from errseg_jax.models.early_exit import EarlyExit, exit_early
from errseg_jax.models.error_branch import ErrorBranch, unweighted
from errseg_jax.models.resize import resize, resize_twice
from errseg_jax.models.second_look import look_again
from errseg_jax.models.sparse import Sparse
from errseg_jax.models.tiles import Tiles, tiled
from errseg_jax.models.views import Views, combined
from errseg_jax.structs import Coarse, Features, Outputs

RGB = 3
FEATURES = ("all", "low", "logits")


class ErrorAware(nn.Module):
  """Frozen segmenter, its guidance and subnets, error branch, detail branch; each is a top-level group of parameters.

  With guidance or subnets the scores of all of them are the frozen network to what comes after (P0 on P3 and P1).

  Attributes:
    segmenter: image -> Features.
    error: (image, Features, semantic, detail) -> error logit.
    detail: (image, Features, semantic) -> logits; a cascade gives those of its stages too.
    detail_weights: class weights in the detail branch's loss. Rare classes gain by them; what the branch thinks
      of the frozen label would be tilted, so the error branch sees its logits without them.
    subnets: (image, Features) -> logits of each group of confused classes; None without, and in the stages
      before they are trained.
    guidance: Features -> global class scores [B, C], added to every local score (P3); None as above.
    refine: of a cascade (P2), whose three branches train together: what they come to; None of other networks.
    early_exit: of a cascade at rest; None: its fine network sees the whole image.
    sparse: where the detail branch of a network at rest works; None: everywhere.
    views: of a network at rest; None: it sees an image once, as it is.
    tiles: of a network at rest; None: it sees an image whole. Each tile is seen in all views.
    features: of the segmenter's what the branches see: "all", "low" (no high ones), or "logits" alone.
    kernels: `config.kernels`; "reference": no `Outputs.coarse`.
    num_devices: that a batch is split over; None: all; "own": those of this process.
  """

  segmenter: nn.Module
  error: nn.Module
  detail: nn.Module
  detail_weights: tuple[float, ...] = ()
  subnets: nn.Module | None = None
  guidance: nn.Module | None = None
  refine: Refine | None = None
  early_exit: EarlyExit | None = None
  sparse: Sparse | None = None
  views: Views | None = None
  tiles: Tiles | None = None
  features: str = "all"
  kernels: str = "auto"
  num_devices: int | str | None = 1

  @property
  def image_channels(self) -> int:
    """Of an image: RGB, and of an adapted network what comes with it."""
    return getattr(self.segmenter, "image_channels", RGB)

  @nn.compact
  def __call__(
    self,
    image: jax.Array,
    train: Collection[str] = (),
    wanted: Collection[str] = ("error", "detail"),
    sparsely: bool = False,
    features: Features | None = None,
  ) -> Outputs:
    """One forward pass, the same in training, evaluation and prediction.

    Args:
      image: uint8 [B, H, W, 3], or of `image_channels`.
      train: groups in training mode; in every other group batch statistics and dropout are at rest.
      wanted: branches to run.
      sparsely: the detail branch works where `sparse` says.
      features: what the segmenter says of the image, where that is known; None: it is asked.

    Returns:
      Outputs at the image's size.
    """
    if features is None:
      features = self.shown(self.segmenter(image, "segmenter" in train))
    size = image.shape[1:3]
    image = image[..., :RGB]
    semantic = resize(features.logits, size, features.align_corners)
    alone, presence = semantic, None
    groups: tuple[jax.Array, ...] = ()
    if self.guidance is not None:
      presence = self.guidance(features, "guidance" in train)
      guide = presence[:, None, None]
      features, semantic = dataclasses.replace(features, logits=features.logits + guide), semantic + guide
    if self.subnets is not None:
      maps = self.subnets(image, features)
      groups = tuple(resize(z, size, features.align_corners) for z in maps)
      semantic = self.fused(semantic, groups)
      features = self.joined(features, maps)
    detail, error, auxiliary, stages = None, None, None, ()
    coarse = self.started(features, image, train)
    if features.auxiliary is not None:
      auxiliary = resize(features.auxiliary, size, features.align_corners)
    if "detail" in wanted or ("error" in wanted and self.error.prior == "detail"):
      detail, stages, coarse = self.detailed(image, features, semantic, train, coarse, sparsely)
    if "error" in wanted:
      error, coarse = self.doubted(image, features, semantic, detail, train, coarse)
    stages = stages if "detail" in train else ()
    groups = groups if "subnets" in train else ()
    refined = None
    if self.refine is not None and error is not None and detail is not None:
      refined = self.refine(semantic, detail, error)
    base = None if semantic is alone else alone
    return Outputs(semantic, error, detail, auxiliary, stages, base, groups, refined, presence, coarse)

  def shown(self, features: Features) -> Features:
    """What the branches see of a segmenter's features."""
    if self.features == "all":
      return features
    without = {"low": (), "strides": ()} if self.features == "logits" else {}
    return dataclasses.replace(features, high=None, **without)  # type: ignore[arg-type]

  def started(self, features: Features, image: jax.Array, train: Collection[str]) -> Coarse | None:
    """What full-size logits come from, the branches' still missing; None where they are more than interpolated."""
    plain = type(self.error) is ErrorBranch and type(self.detail) is DetailBranch
    if self.kernels == "reference" or self.subnets is not None or not plain:
      return None
    return Coarse(
      features.logits,
      size=(image.shape[1], image.shape[2]),
      align_corners=(features.align_corners, False, False),
      residual=self.detail.residual,
      prior=self.error.prior,
      detail_weights=self.detail_weights,
      trained=tuple(train),
      kernels=self.kernels,
      num_devices=self.num_devices,
    )

  def detailed(
    self,
    image: jax.Array,
    features: Features,
    semantic: jax.Array,
    train: Collection[str],
    coarse: Coarse | None,
    sparsely: bool,
  ) -> tuple[jax.Array, tuple, Coarse | None]:
    """Detail logits, those of a cascade's stages, and `coarse` with what they come from."""
    where = {"sparse": self.sparse} if sparsely else {}
    if coarse is None or (where and not self.detail.residual):
      detail = self.detail(image, features, semantic, "detail" in train, **where)
      return (*detail, None) if isinstance(detail, tuple) else (detail, (), None)
    own = self.detail(image, features, semantic, "detail" in train, resized=False, **where)
    return self.detail.at_size(own, semantic), (), dataclasses.replace(coarse, detail=own)

  def doubted(
    self,
    image: jax.Array,
    features: Features,
    semantic: jax.Array,
    detail: jax.Array | None,
    train: Collection[str],
    coarse: Coarse | None,
  ) -> tuple[jax.Array, Coarse | None]:
    """The error logit, and `coarse` with what it comes from."""
    belief = None if detail is None else unweighted(detail, self.detail_weights)
    if coarse is None:
      return self.error(image, features, semantic, belief, "error" in train), None
    sampled = None if belief is None else functools.partial(self.sampled_belief, coarse)
    own = self.error(image, features, semantic, belief, "error" in train, sampled, resized=False)
    error = self.error.at_size(own, semantic, belief)
    found = {"error": own.logit, "prior_scale": own.scale, "prior_offset": own.offset}
    return error, dataclasses.replace(coarse, **found)

  def sampled_belief(self, coarse: Coarse, size: tuple[int, int]) -> jax.Array:
    """The detail branch's belief resized from the label's size, [B, h, w, C], without the full-size map."""
    own = resize_twice(coarse.detail, coarse.size, size, False)
    if coarse.residual:
      own += resize_twice(coarse.semantic, coarse.size, size, coarse.align_corners[0])
    return unweighted(own, self.detail_weights)

  def joined(self, features: Features, groups: Sequence[jax.Array]) -> Features:
    """Features whose logits, which the branches read, are the fusion at the finest size of all maps."""
    size = max(z.shape[1:3] for z in (features.logits, *groups))
    logits, *others = (resize(z, size, features.align_corners) for z in (features.logits, *groups))
    return dataclasses.replace(features, logits=self.fused(logits, others))

  def fused(self, logits: jax.Array, groups: Sequence[jax.Array]) -> jax.Array:
    """`fuse_groups` of the network's logits and its subnets', all of one size."""
    assert self.subnets is not None
    return fuse_groups(logits, groups, self.subnets.groups, self.subnets.rule)


def single_pass(model: ErrorAware) -> ErrorAware:
  """The network as it is trained and chosen for: one pass over the whole image."""
  return model.clone(early_exit=None, sparse=None, views=None, tiles=None)


def infer(
  model: ErrorAware, variables: Any, image: jax.Array, wanted: Collection[str] = ("error", "detail")
) -> Outputs:
  """The forward pass with every group at rest, through the model's tiles and in its views where it has some.

  Its maps are all at the image's size, so that maps of parts and views can be put together.

  Raises:
    UserError: the views' learned weights, `variables["tuned"]["combination"]`, are missing or do not fit.
  """
  if model.tiles is not None:
    untiled = model.clone(tiles=None)
    return tiled(lambda tile: infer(untiled, variables, tile, wanted), image, model.tiles)
  if model.views is not None:
    once = model.clone(views=None)
    if model.views.share < 1:
      residual = getattr(model.detail, "residual", False)
      function = functools.partial(infer, once, variables)
      return look_again(function, image, model.views, wanted, residual)
    weights = variables.get("tuned", {}).get("combination")
    return combined(lambda view: infer(once, variables, view, wanted), image, model.views, weights)
  if model.early_exit is not None and {"error", "detail"} <= set(wanted):
    return exit_early(model, variables, image, wanted)
  outputs: Any = model.apply(variables, image, wanted=wanted, sparsely=model.sparse is not None)
  return dataclasses.replace(outputs, coarse=None)


def infer_coarse(
  model: ErrorAware, variables: Any, image: jax.Array, wanted: Collection[str] = ("error", "detail")
) -> Outputs:
  """`infer`, with `Outputs.coarse` where the maps are interpolated from it alone."""
  if model.tiles is not None or model.views is not None or model.early_exit is not None:
    return infer(model, variables, image, wanted)
  outputs: Any = model.apply(variables, image, wanted=wanted, sparsely=model.sparse is not None)
  return outputs
