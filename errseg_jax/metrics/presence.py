"""Which classes an image shows: the target of image classification, and how well global scores name them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, UInt8

from errseg_jax.metrics.errors import BIN_CENTRES, error_histogram, error_scores
from errseg_jax.structs import IGNORE


def present_classes(label: UInt8[Array, "B H W"], num_classes: int) -> Bool[Array, "B C"]:
  """bool [B, C]: the class has a pixel in the image.

  Args:
    label: uint8 [B, H, W], train ids, 255 = ignore.
    num_classes: C.
  """
  count = jax.vmap(lambda y: jnp.bincount(y.ravel().astype(jnp.int32), length=IGNORE + 1))
  return count(label)[:, :num_classes] > 0


def presence_histogram(scores: Float[Array, "B C"], label: UInt8[Array, "B H W"]) -> Int[Array, "C 2 bins"]:
  """Images with and without each class by its score; those without a valid pixel count nowhere.

  Args:
    scores: logits [B, C] of each class's presence.
    label: uint8 [B, H, W].

  Returns:
    int32 [C, 2, bins] of `metrics.errors`: row 0 absent, row 1 present.
  """
  present = present_classes(label, scores.shape[-1])
  labelled = jnp.broadcast_to((label != IGNORE).any((1, 2))[:, None], present.shape)
  return error_histogram(scores.T, present.T, labelled.T)


def presence_scores(histogram: Integer[np.ndarray, "C 2 bins"], classes: tuple[str, ...]) -> dict[str, Any]:
  """Average precision and F1 of each class over images, percent.

  Args:
    histogram: of `presence_histogram`, added up over images.
    classes: C names.

  Returns:
    {"mAP", "mF1", "AP": {class: value}, "F1": {class: value}, "images": {class: images that show it}}. A class is
    said to be there where its probability is above 1/2. AP is None for a class that all images show or none does,
    F1 for one that is neither there nor said to be; the means leave them out.
  """
  said = histogram[:, :, BIN_CENTRES > 0].sum(2)
  there = histogram.sum(2)[:, 1]
  hits, claims = said[:, 1], said.sum(1)
  f1 = [200 * h / (c + t) if c + t else None for h, c, t in zip(hits, claims, there, strict=True)]
  precision = [error_scores(row)["AUPR_error"] for row in histogram]
  return {
    "mAP": _mean(precision),
    "mF1": _mean(f1),
    "AP": dict(zip(classes, precision, strict=True)),
    "F1": dict(zip(classes, f1, strict=True)),
    "images": {name: int(n) for name, n in zip(classes, there, strict=True)},
  }


def _mean(values: list[float | None]) -> float | None:
  known = [v for v in values if v is not None]
  return float(np.mean(known)) if known else None
