"""How good the labels of one image are, foreseen from calibrated P_ep alone: no truth is asked."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Integer, Shaped

from errseg_jax.metrics.segmentation import segmentation_scores


def expected_iou(
  labelled: Shaped[np.ndarray, " C"], right: Shaped[np.ndarray, " C"]
) -> Float[np.ndarray, " C"]:
  """IoU of each class to expect in an image.

  Of n pixels labelled c, r = sum(1 - P_ep) are expected right, the intersection. P_ep does not say which class a
  wrong pixel has, so how many pixels of c were missed is taken to balance out: as many as were labelled c by
  mistake, n - r (recall = precision). Hence IoU = r / (n + n - r). Classes that the network overlooks are worse
  than that, those that it sees everywhere better.

  Args:
    labelled: [C], pixels by label.
    right: [C], sum of 1 - P_ep over them.

  Returns:
    float64 [C], percent; NaN for a class that no pixel is labelled.
  """
  labelled, right = np.asarray(labelled, np.float64), np.asarray(right, np.float64)
  with np.errstate(invalid="ignore"):
    return 100 * right / (2 * labelled - right)


def expected_miou(labelled: Shaped[np.ndarray, " C"], right: Shaped[np.ndarray, " C"]) -> float:
  """Mean of `expected_iou` over the classes in the labels; a class that they lack altogether cannot be foreseen."""
  return float(np.nanmean(expected_iou(labelled, right)))


def expected_counts(
  labels: Integer[np.ndarray, "H W"], error_probability: Float[np.ndarray, "H W"], num_classes: int
) -> tuple[Integer[np.ndarray, " C"], Float[np.ndarray, " C"]]:
  """(labelled [C], right [C]) of an image's label map [H, W] and calibrated P_ep [H, W]."""
  labels, p = np.ravel(labels), np.ravel(error_probability).astype(np.float64)
  return np.bincount(labels, minlength=num_classes), np.bincount(labels, 1 - p, num_classes)


def image_miou(confusion: Integer[np.ndarray, "C C"]) -> float:
  """mIoU of one image, percent, over the classes in its truth or labels; confusion [C, C], rows truth."""
  return segmentation_scores(confusion, [str(c) for c in range(len(confusion))])["mIoU"] or 0.0
