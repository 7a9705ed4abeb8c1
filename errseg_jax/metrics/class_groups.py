"""Groups of classes that a network confuses, found in its confusion matrix, on the host.

N is the row-normalised confusion matrix: N[i, j] is the share of the pixels of class i that are labelled j. Two classes
are as similar as they are confused, (N[i, j] + N[j, i]) / 2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from scipy import linalg, sparse
from scipy.cluster import hierarchy
from scipy.spatial import distance

from errseg_jax.data.class_groups import Groups, check_groups
from errseg_jax.errors import UserError


def checked_counts(counts: Any, num_classes: int = 0) -> Float[np.ndarray, "C C"]:
  """A confusion matrix as float64 [C, C].

  Args:
    counts: rows are truth.
    num_classes: C that it must have; 0 takes any.

  Raises:
    UserError: it is not square, of another size, or has a negative, infinite or NaN entry.
  """
  try:
    counts = np.asarray(counts, np.float64)
  except (ValueError, TypeError):
    raise UserError("the confusion matrix is no table of numbers") from None
  shape = "x".join(map(str, counts.shape)) or "a single number"
  if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not counts.size:
    raise UserError(f"the confusion matrix is {shape}: it must be square, a row and a column for each class")
  if num_classes and len(counts) != num_classes:
    raise UserError(f"the confusion matrix is {shape} but there are {num_classes} classes")
  if not np.isfinite(counts).all():
    raise UserError(
      "the confusion matrix has NaN or infinite entries: give counts of pixels (a class without any has a row of 0)"
    )
  if (counts < 0).any():
    raise UserError("the confusion matrix has negative entries: give counts of pixels")
  return counts


def row_normalised(counts: Shaped[np.ndarray, "C C"]) -> Float[np.ndarray, "C C"]:
  """N, float64 [C, C]: each row of counts [C, C] scaled to sum 1; the row of a class without a pixel is 0."""
  counts = checked_counts(counts)
  totals = counts.sum(1, keepdims=True)
  return counts / np.where(totals > 0, totals, 1)


def aggregated(counts: Shaped[np.ndarray, "C C"], group: Sequence[int]) -> Shaped[np.ndarray, "rows rows"]:
  """Confusion in the output space of a group's subnet.

  Args:
    counts: [C, C], rows are truth.
    group: its K classes.

  Returns:
    [K + 1, K + 1] of the input's dtype: 0 is "others", the pixels of all classes outside; 1..K are the group's
    classes in their order.
  """
  counts = np.asarray(counts)
  checked_counts(counts)
  check_groups([group], len(counts))
  place = np.zeros(len(counts), int)
  place[list(group)] = np.arange(1, len(group) + 1)
  out = np.zeros((len(group) + 1,) * 2, counts.dtype)
  np.add.at(out, (place[:, None], place[None, :]), counts)
  return out


def off_diagonal(counts: Shaped[np.ndarray, "C C"]) -> Float[np.ndarray, "C C"]:
  """N with a diagonal of 0."""
  shares = row_normalised(counts)
  np.fill_diagonal(shares, 0)
  return shares


def _components(similar: np.ndarray, threshold: float, max_groups: int) -> np.ndarray:
  """Connected components of the pairs that are at least `threshold` similar."""
  del max_groups
  return sparse.csgraph.connected_components(sparse.csr_matrix(similar >= threshold), directed=False)[1]


def _hierarchical(similar: np.ndarray, threshold: float, max_groups: int) -> np.ndarray:
  """Average linkage of 1 - similarity, cut where two clusters are less than `threshold` similar on average."""
  del max_groups
  tree = hierarchy.linkage(distance.squareform(1 - similar, checks=False), "average")
  return hierarchy.fcluster(tree, 1 - threshold, "distance")


def _spectral(similar: np.ndarray, threshold: float, max_groups: int) -> np.ndarray:
  """Clusters of the smallest eigenvectors of the normalised Laplacian of the pairs that are similar enough.

  As many as its eigenvalues have before their largest gap: at least as many as there are components, and at most
  `max_groups` where there are fewer components than that. The clusters come from a pivoted QR decomposition, which
  unlike k-means needs no random start.

  Source: von Luxburg, "A Tutorial on Spectral Clustering", 2007, Sec. 8.3; Damle, Minden & Ying, "Simple, direct and
  efficient multi-way spectral clustering", 2019, Algorithm 1.
  """
  weights = np.where(similar >= threshold, similar, 0)
  linked = np.flatnonzero(weights.sum(1))
  labels = -1 - np.arange(len(similar))  # a class without a similar one is a cluster of its own
  if not linked.size:
    return labels
  weights = weights[np.ix_(linked, linked)]
  degree = 1 / np.sqrt(weights.sum(1))
  values, vectors = linalg.eigh(np.eye(len(linked)) - degree[:, None] * weights * degree)
  least = sparse.csgraph.connected_components(sparse.csr_matrix(weights), directed=False)[0]
  most = max(least, min(max_groups, len(linked) // 2))
  count = least + int(np.argmax(np.diff(values)[least - 1 : most]))
  vectors = vectors[:, :count]
  pivots = linalg.qr(vectors.T, pivoting=True, mode="r")[1][:count]
  left, _, right = linalg.svd(vectors[pivots].T)
  labels[linked] = np.abs(vectors @ (left @ right)).argmax(1)
  return labels


METHODS: dict[str, Callable[[np.ndarray, float, int], np.ndarray]] = {
  "components": _components,
  "hierarchical": _hierarchical,
  "spectral": _spectral,
}


@dataclasses.dataclass(frozen=True)
class Discovery:
  """How groups are found in a confusion matrix; a class in no group is fine.

  Attributes:
    method: "components": classes that are linked by pairs above the threshold, be it through others.
      "hierarchical": classes that are confused with each other on average. "spectral": the components, cut
      where they hang together weakly.
    threshold: similarity of two classes from which they are confused, above 0 and up to 1. A tenth tells groups apart
      in networks of 40 to 70 mIoU, where at half of it a chain of pairs can take them all; where few pixels
      are wrong (Cityscapes at 75 mIoU: the most similar two have 0.09) it must be lower.
    max_groups: groups that are kept, the most confused first.
  """

  method: str = "components"
  threshold: float = 0.1
  max_groups: int = 3

  def __post_init__(self):
    if self.method not in METHODS:
      raise UserError(f"groups.method={self.method!r} is unknown; known: {', '.join(METHODS)}")
    if not 0 < self.threshold <= 1:
      raise UserError(f"groups.threshold={self.threshold} must be above 0 and at most 1")
    if self.max_groups < 1:
      raise UserError(f"groups.max_groups={self.max_groups} must be at least 1")

  def __call__(self, counts: Shaped[np.ndarray, "C C"]) -> Groups:
    """The groups in a confusion matrix [C, C] of two classes or more, the largest confusion inside first.

    Returns:
      tuples of two classes or more, in ascending order, at most `max_groups`; () where no pair reaches the threshold.
    """
    shares = off_diagonal(counts)
    if len(shares) < 2:
      raise UserError("the confusion matrix has one class: there is nothing to confuse it with")
    labels = METHODS[self.method]((shares + shares.T) / 2, self.threshold, self.max_groups)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    groups = [tuple(map(int, group)) for group in members if len(group) > 1]
    groups.sort(key=lambda group: (-shares[np.ix_(group, group)].sum(), group))
    return tuple(groups[: self.max_groups])


def inside_and_across(counts: Shaped[np.ndarray, "C C"], groups: Groups) -> tuple[list[float], float]:
  """Sums of the off-diagonal N.

  Args:
    counts: [C, C], rows are truth.
    groups: disjoint classes.

  Returns:
    the confusion inside each group, and all that is left: between groups and with classes in none. A class that
    is never right adds 1.
  """
  shares = off_diagonal(counts)
  check_groups(groups, len(shares))
  inside = [float(shares[np.ix_(group, group)].sum()) for group in groups]
  return inside, max(0.0, float(shares.sum()) - sum(inside))
