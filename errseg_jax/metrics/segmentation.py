"""Scores of a label map: one confusion matrix, and the boundary counts of Boundary IoU.

Statistics are jnp functions of one batch and add up over batches; int32 holds a batch, so add them
up on the host in int64. Scores are float64 percentages (0..100) of the sums; None is undefined.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, Integer

from errseg_jax.structs import IGNORE


def confusion_matrix(
  labels: Integer[Array, "*pixels"], predictions: Integer[Array, "*pixels"], num_classes: int
) -> Int[Array, "C C"]:
  """Counts pixels by truth and prediction.

  Args:
    labels: integer [...], train ids, 255 = ignore.
    predictions: integer [...], train ids 0..C-1.
    num_classes: C.

  Returns:
    int32 [C, C], rows are truth, columns prediction.
  """
  truth, predicted = labels.astype(jnp.int32), predictions.astype(jnp.int32)
  cell = jnp.where(truth == IGNORE, num_classes**2, truth * num_classes + predicted)
  counts = jnp.bincount(cell.ravel(), length=num_classes**2 + 1)
  return counts[:-1].reshape(num_classes, num_classes).astype(jnp.int32)


def boundary_radius(height: int, width: int) -> int:
  """Width of the boundary band in pixels: 2 % of the image diagonal, at least 1."""
  return max(1, round(0.02 * math.hypot(height, width)))


def _window_max(x: jax.Array, radius: int, axis: int, fill: int) -> jax.Array:
  """Maximum over 2 * radius + 1 neighbours along one axis, in O(log radius) passes."""
  padding = [(0, 0)] * x.ndim
  padding[axis] = (radius, radius)
  x = jnp.pad(x, padding, constant_values=fill)
  size, width = 1, 2 * radius + 1
  while size < width:
    step = min(size, width - size)
    length = x.shape[axis] - step
    x = jnp.maximum(lax.slice_in_dim(x, 0, length, axis=axis), lax.slice_in_dim(x, step, None, axis=axis))
    size += step
  return x


def _square_max(x: jax.Array, radius: int, fill: int) -> jax.Array:
  return _window_max(_window_max(x, radius, 1, fill), radius, 2, fill)


def _in_band(label_map: jax.Array, valid: jax.Array, radius: int) -> jax.Array:
  """Whether another label lies in the square window; ignored or outside pixels are none."""
  fill = -IGNORE - 1
  highest = _square_max(jnp.where(valid, label_map, fill), radius, fill)
  lowest = -_square_max(jnp.where(valid, -label_map, fill), radius, fill)
  return valid & ((highest != label_map) | (lowest != label_map))


def boundary_counts(
  labels: Integer[Array, "B H W"], predictions: Integer[Array, "B H W"], num_classes: int, radius: int
) -> Int[Array, "2 C"]:
  """Intersection and union of the inner boundary bands of each class.

  The band of class c is the pixels of c with a pixel of another class within `radius` (square
  window). Unlike the reference code, the image border is no boundary: padding must change nothing.
  Ignored pixels belong to no band and are nobody's neighbour.

  Args:
    labels: integer [B, H, W], train ids, 255 = ignore.
    predictions: integer [B, H, W], train ids 0..C-1.
    num_classes: C.
    radius: band width in pixels, see `boundary_radius`.

  Returns:
    int32 [2, C]: pixels of the intersection, of the union.

  Source: Cheng et al., "Boundary IoU", CVPR 2021, Sec. 4.
  """
  valid = labels != IGNORE
  truth, predicted = labels.astype(jnp.int32), predictions.astype(jnp.int32)
  truth_band = _in_band(truth, valid, radius)
  predicted_band = _in_band(predicted, valid, radius)

  def count(label_map: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.bincount(jnp.where(mask, label_map, num_classes).ravel(), length=num_classes + 1)

  both = count(truth, truth_band & predicted_band & (truth == predicted))
  union = count(truth, truth_band) + count(predicted, predicted_band) - both
  return jnp.stack([both, union])[:, :-1].astype(jnp.int32)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
  """Percentage, float64; NaN where the denominator is 0 (it becomes None before it leaves)."""
  numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
  return np.where(denominator > 0, 100 * numerator / np.maximum(denominator, 1), np.nan)


def _mean(values: np.ndarray) -> float | None:
  defined = values[~np.isnan(values)]
  return float(defined.mean()) if defined.size else None


def _by_class(values: np.ndarray, classes: Sequence[str]) -> dict[str, float | None]:
  return {name: None if np.isnan(v) else float(v) for name, v in zip(classes, values, strict=True)}


def segmentation_scores(
  confusion: Integer[np.ndarray, "C C"], classes: Sequence[str], absent: Sequence[str] = ()
) -> dict:
  """The usual scores of a confusion matrix.

  Args:
    confusion: integer [C, C], rows are truth.
    classes: the C class names.
    absent: names of classes that a prediction alone brings no score (`DatasetInfo.absent`).

  Returns:
    mIoU, aAcc, mAcc, mDice (percent or None) and IoU, Acc (class -> percent or None). A class that
    is neither in the truth nor predicted has no IoU, one that is not in the truth no Acc; neither
    enters the mean. A pixel that is taken for a class of `absent` is still wrong for its own class.
  """
  confusion = np.asarray(confusion, np.int64)
  hit, truth, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
  predicted = np.where((truth == 0) & [name in absent for name in classes], 0, predicted)
  iou = _ratio(hit, truth + predicted - hit)
  accuracy = _ratio(hit, truth)
  return {
    "mIoU": _mean(iou),
    "aAcc": _mean(_ratio(hit.sum(), truth.sum())),
    "mAcc": _mean(accuracy),
    "mDice": _mean(_ratio(2 * hit, truth + predicted)),
    "IoU": _by_class(iou, classes),
    "Acc": _by_class(accuracy, classes),
  }


def mean_iou(confusion: Integer[np.ndarray, "C C"]) -> float:
  """Of a confusion matrix alone, percent; 0 without a class."""
  return segmentation_scores(confusion, [str(c) for c in range(len(confusion))])["mIoU"] or 0.0


def boundary_iou(
  counts: Integer[np.ndarray, "2 C"], classes: Sequence[str], left_out: Sequence[str] = ()
) -> dict:
  """Boundary IoU of `boundary_counts` [2, C]: mBIoU and BIoU (class -> percent, or None as those `left_out`)."""
  values = _ratio(counts[0], np.where([name in left_out for name in classes], 0, counts[1]))
  return {"mBIoU": _mean(values), "BIoU": _by_class(values, classes)}


def top_confusions(
  confusion: Integer[np.ndarray, "C C"], classes: Sequence[str], k: int
) -> list[tuple[str, str, float]]:
  """The k largest off-diagonal cells as (truth, predicted, percent of the truth's pixels)."""
  confusion = np.asarray(confusion, np.int64)
  share = np.nan_to_num(_ratio(confusion, confusion.sum(1, keepdims=True)))
  np.fill_diagonal(share, 0)
  largest = np.argsort(-share, axis=None, kind="stable")[:k]
  cells = [divmod(int(cell), len(classes)) for cell in largest]
  return [(classes[i], classes[j], float(share[i, j])) for i, j in cells if share[i, j] > 0]
