"""What evaluation remembers of single images: a bounded number of points, and the extreme images by name."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

MAX_POINTS = 2000  # images of which expected and real accuracy are kept
KEPT = 250  # images remembered by name for each reason


class ImageScores(NamedTuple):
  """Scores of one image, percent of its labelled pixels.

  Attributes:
    name: the image's name.
    accuracy: of the frozen network's labels.
    fused: of the corrected labels.
    expected: the accuracy that P_ep lets expect, NaN without P_ep.
  """

  name: str
  accuracy: float
  fused: float
  expected: float


REASONS: dict[str, Callable[[ImageScores], float]] = {
  "worst": lambda scores: -scores.accuracy,
  "gained": lambda scores: scores.fused - scores.accuracy,
  "lost": lambda scores: scores.accuracy - scores.fused,
  "best": lambda scores: scores.accuracy,
}
"""Why an image is worth a look -> a number that is higher the more it is."""


@dataclasses.dataclass
class Thinned:
  """Every `stride`-th of a stream of points: the stride doubles whenever there are more than MAX_POINTS."""

  points: list[tuple[float, float]] = dataclasses.field(default_factory=list)
  stride: int = 1
  seen: int = 0

  def add(self, point: tuple[float, float]) -> None:
    """The next point of the stream."""
    if self.seen % self.stride == 0:
      self.points.append(point)
    self.seen += 1
    if len(self.points) > MAX_POINTS:
      self.points, self.stride = self.points[::2], 2 * self.stride

  def merge(self, other: Thinned) -> None:
    """The points of another stream behind these, both as thin as the thinner."""
    stride = max(self.stride, other.stride)
    self.points = self.points[:: stride // self.stride] + other.points[:: stride // other.stride]
    self.stride, self.seen = stride, self.seen + other.seen
    while len(self.points) > MAX_POINTS:
      self.points, self.stride = self.points[::2], 2 * self.stride


@dataclasses.dataclass
class Extremes:
  """For each of REASONS the KEPT images that it fits best; in what order they were seen does not matter."""

  heaps: dict[str, list[tuple[float, ImageScores]]] = dataclasses.field(
    default_factory=lambda: {reason: [] for reason in REASONS}
  )

  def add(self, scores: ImageScores) -> None:
    """One image."""
    for reason, rank in REASONS.items():
      heap = self.heaps[reason]
      heapq.heappush(heap, (rank(scores), scores))
      if len(heap) > KEPT:
        heapq.heappop(heap)

  def merge(self, other: Extremes) -> None:
    """The images of another one."""
    for reason, theirs in other.heaps.items():
      self.heaps[reason] = heapq.nlargest(KEPT, self.heaps[reason] + theirs)
      heapq.heapify(self.heaps[reason])

  def first(self, reason: str) -> list[ImageScores]:
    """The images that the reason fits, those that it fits best first."""
    return [scores for _, scores in sorted(self.heaps[reason], key=lambda entry: (-entry[0], entry[1].name))]

  def arrays(self) -> dict[str, np.ndarray]:
    """ "names/REASON" [K] and `scores.REASON` float64 [K, 3]: accuracy, fused, expected; `of_arrays` reads them."""
    out: dict[str, np.ndarray] = {}
    for reason in REASONS:
      rows = self.first(reason)
      out[f"names.{reason}"] = np.array([row.name for row in rows], np.str_)
      out[f"scores.{reason}"] = np.array([row[1:] for row in rows], np.float64).reshape(-1, 3)
    return out

  @classmethod
  def of_arrays(cls, arrays: dict[str, np.ndarray]) -> Extremes:
    """From `arrays`."""
    extremes = cls()
    for reason, rank in REASONS.items():
      rows = zip(arrays[f"names.{reason}"], arrays[f"scores.{reason}"], strict=True)
      images = [ImageScores(str(name), *(float(x) for x in row)) for name, row in rows]
      extremes.heaps[reason] = [(rank(image), image) for image in images]
      heapq.heapify(extremes.heaps[reason])
    return extremes
