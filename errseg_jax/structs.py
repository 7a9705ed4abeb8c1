"""The vocabulary of the package: what flows between its parts, with shapes, dtypes and units.

B batch, H x W image, h x w a feature map, C classes. Images are RGB, labels are train ids, 255 is ignore.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from flax import struct
from jaxtyping import Array, Float, UInt8

IGNORE = 255


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """What a data set's labels mean.

  Attributes:
    name: the name a config uses.
    classes: class names; a label value is an index into them, or 255 for ignore.
    palette: one RGB colour (0..255) per class.
    absent: class names that the published test split has no pixel of, and that its published scores leave out: in a
      split without them they enter no mean, even where they are predicted.
  """

  name: str
  classes: tuple[str, ...]
  palette: tuple[tuple[int, int, int], ...]
  absent: tuple[str, ...] = ()

  @property
  def num_classes(self) -> int:
    return len(self.classes)


@struct.dataclass
class Batch:
  """One batch on the device.

  Attributes:
    image: uint8 [B, H, W, 3], RGB 0..255.
    label: uint8 [B, H, W], train ids, 255 = ignore (padding included).
    features: what the frozen network says of the image, where that is known; None: it is asked.
  """

  image: UInt8[Array, "B H W channels"]
  label: UInt8[Array, "B H W"]
  features: Features | None = None


@struct.dataclass
class Features:
  """The contract between any segmentation network and the branches.

  A 512x512 image through DeepLabv3+ on a ResNet gives logits [B,128,128,C], low = ([B,256,256,64],
  [B,128,128,256], [B,64,64,512]) with strides (2, 4, 8), high = [B,32,32,256].

  Attributes:
    logits: float32 [B, h, w, C] at any stride.
    low: feature maps [B, h_i, w_i, C_i], finest first; may be empty.
    high: [B, h', w', C'] at any stride, or None.
    strides: the stride of each map in `low` (image pixels per feature pixel).
    auxiliary: float32 [B, h", w", C], logits of an auxiliary head in training; None without one, and at rest.
    align_corners: how the logits are resized to the image's size.
  """

  logits: Float[Array, "B h w C"]
  low: tuple[Float[Array, "B _h_i _w_i _C_i"], ...] = ()
  high: Float[Array, "B h_high w_high C_high"] | None = None
  strides: tuple[int, ...] = struct.field(pytree_node=False, default=())
  auxiliary: Float[Array, "B h_aux w_aux C"] | None = None
  align_corners: bool = struct.field(pytree_node=False, default=False)


@struct.dataclass
class Coarse:
  """The maps that the logits of `Outputs` are interpolated from: who reads these needs no full-size class map.

  A full-size map is `models.resize.resize` of its coarse one.

  Attributes:
    semantic: [B, h, w, C], logits.
    detail: [B, h', w', C], logits, or what is added to the semantic ones (`residual`); None without.
    error: [B, h", w"], logits, or what is added to prior_scale * z0 + prior_offset; None without.
    prior_scale: [], of the error branch's prior; None without a prior.
    prior_offset: [], see prior_scale.
    size: (H, W).
    align_corners: how semantic, detail and error are resized.
    residual: see detail.
    prior: "none", "msp" or "detail" (`models.error_branch`).
    detail_weights: class weights that the prior "detail" takes out of the detail logits.
    trained: groups whose gradient may be asked for.
    kernels: `config.kernels`.
    num_devices: that a batch is split over; None: all; "own": those of this process.
  """

  semantic: Float[Array, "B h w C"]
  detail: Any = None
  error: Any = None
  prior_scale: Any = None
  prior_offset: Any = None
  size: tuple[int, int] = struct.field(pytree_node=False, default=(0, 0))
  align_corners: tuple[bool, bool, bool] = struct.field(pytree_node=False, default=(False, False, False))
  residual: bool = struct.field(pytree_node=False, default=False)
  prior: str = struct.field(pytree_node=False, default="none")
  detail_weights: tuple[float, ...] = struct.field(pytree_node=False, default=())
  trained: tuple[str, ...] = struct.field(pytree_node=False, default=())
  kernels: str = struct.field(pytree_node=False, default="auto")
  num_devices: int | str | None = struct.field(pytree_node=False, default=1)


@struct.dataclass
class Outputs:
  """What a forward pass gives, at the label's size, as logits; a branch that did not run is None.

  Attributes:
    semantic: float32 [B, H, W, C], logits of the frozen network, with its guidance and subnets where it has some.
    error: float32 [B, H, W], logit of P(semantic label is wrong).
    detail: float32 [B, H, W, C], logits of the detail branch.
    auxiliary: float32 [B, H, W, C], logits of the segmenter's auxiliary head, in its training only.
    stages: of a detail branch that is a cascade, in its training only: (logits [B, H, W, C], bool [B, H, W]: the
      pixel reached it) of each decoder.
    base: float32 [B, H, W, C], logits of the network without guidance and subnets; None where it has none.
    subnets: float32 [B, H, W, K_g + 1] of each subnet, in their training only.
    refined: float32 [B, H, W, C], scores in log space of what a cascade of coarse, attention and refine makes of all
      three (P2); None of other networks.
    presence: float32 [B, C], logits of each class's presence in the image (P3); None without guidance.
    coarse: what semantic, error and detail are interpolated from; None where they are more than that.
  """

  semantic: Float[Array, "B H W C"]
  error: Any = None
  detail: Any = None
  auxiliary: Any = None
  stages: Any = ()
  base: Any = None
  subnets: Any = ()
  refined: Any = None
  presence: Any = None
  coarse: Coarse | None = None


@struct.dataclass
class Prediction:
  """What a user gets for one image (arrays [H, W]) or a batch ([B, H, W]).

  Attributes:
    labels: uint8, the corrected (fused) label map.
    semantic_labels: uint8, the frozen network's own.
    detail_labels: uint8, the detail branch's own; the network's, of a run without.
    error_probability: float32 0..1, calibrated P(semantic label is wrong); of a run without an error branch
      1 - max probability.
  """

  labels: UInt8[Array, "*B H W"]
  semantic_labels: UInt8[Array, "*B H W"]
  detail_labels: UInt8[Array, "*B H W"]
  error_probability: Float[Array, "*B H W"]

  @property
  def confidence(self) -> Float[Array, "*B H W"]:
    """float32 0..1: calibrated probability that the semantic label is right."""
    return 1.0 - self.error_probability
