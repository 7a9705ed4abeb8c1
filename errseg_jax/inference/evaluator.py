"""Runs a network over a source and adds up counts; memory does not grow with the number of images."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from errseg_jax import assemble
from errseg_jax.data.pipeline import eval_batches
from errseg_jax.inference.choice import Choice
from errseg_jax.metrics.errors import image_score_sums
from errseg_jax.metrics.image_quality import expected_miou, image_miou
from errseg_jax.sharding import shard_batch
from errseg_jax.structs import Batch

MAX_POINTS = 2000  # images of which expected and real accuracy are kept
WORST = 24  # images remembered by name, lowest accuracy first


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


@dataclasses.dataclass
class Totals:
  """Sums over a source.

  Attributes:
    counts: name -> int64 array, the device's counts added up; float64 of what is no count.
    images: number of images with a valid pixel.
    image_scores: name -> [3, 2] of `image_score_sums`.
    moments: "accuracy" and "mIoU" -> float64 [6]: sums of x, y, x^2, y^2, xy, |x - y| of the expected and the real
      one of an image's frozen labels, percent; without P_ep none.
    points: expected and real accuracy of images, percent.
    image_miou: sum of the images' fused mIoU, percent.
    worst: (accuracy, fused accuracy, name), percent, lowest first.
  """

  counts: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  images: int = 0
  image_scores: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  moments: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  points: Thinned = dataclasses.field(default_factory=Thinned)
  image_miou: float = 0.0
  worst: list[tuple[float, float, str]] = dataclasses.field(default_factory=list)

  def add(self, counts: dict[str, np.ndarray], names: list[str], per_image: bool) -> None:
    """Adds one batch; `names` are those of its real rows, the first ones."""
    real = len(names)
    self.images += real
    for key, value in counts.items():
      if key.startswith("image/"):
        continue
      if key.startswith("histogram/"):
        if per_image:
          name = key.removeprefix("histogram/")
          sums = self.image_scores.setdefault(name, np.zeros((3, 2)))
          sums += image_score_sums(value[:real])
        value = value.sum(0)
      kind = np.float64 if value.dtype.kind == "f" else np.int64
      self.counts[key] = self.counts.get(key, 0) + value.astype(kind)
    if "image/valid" in counts:
      self._add_images({k.removeprefix("image/"): v for k, v in counts.items() if k[:6] == "image/"}, names)

  def _add_images(self, rows: dict[str, np.ndarray], names: list[str]) -> None:
    for i, name in enumerate(names):
      valid = int(rows["valid"][i])
      if not valid:
        self.images -= 1
        continue
      real, fused = 100 * rows["right"][i] / valid, 100 * rows["fused_right"][i] / valid
      self.image_miou += image_miou(rows["confusion"][i])
      if "expected" in rows:
        confusion, right = rows["semantic_confusion"][i], rows["expected"][i]
        pairs = {
          "accuracy": (100 * float(right.sum()) / valid, float(real)),
          "mIoU": (expected_miou(confusion.sum(0), right), image_miou(confusion)),
        }
        self.points.add(pairs["accuracy"])
        for key, (x, y) in pairs.items():
          moments = self.moments.setdefault(key, np.zeros(6))
          moments += (x, y, x * x, y * y, x * y, abs(x - y))
      heapq.heappush(self.worst, (-float(real), -float(fused), name))
      if len(self.worst) > WORST:
        heapq.heappop(self.worst)

  def worst_first(self) -> list[tuple[float, float, str]]:
    """(accuracy, fused accuracy, name), percent."""
    return sorted((-a, -f, name) for a, f, name in self.worst)


class Evaluator:
  """Batches of a source through a jitted counter.

  Args:
    mesh: the devices.
    batch_size: images per batch; rounded up to a multiple of the devices.
    size_multiple: images are padded to multiples of it plus size_remainder.
    size_remainder: see size_multiple.
    pad_value: RGB of padding.
    threads: that read.
  """

  def __init__(
    self, mesh, *, batch_size: int, size_multiple: int, size_remainder: int, pad_value, threads: int
  ):
    devices = mesh.devices.size
    self.mesh = mesh
    self.options = {
      "batch_size": -(-batch_size // devices) * devices,
      "size_multiple": size_multiple,
      "size_remainder": size_remainder,
      "pad_value": pad_value,
      "threads": threads,
    }

  def batches(self, source: Any) -> Iterator[tuple[Batch, list[str]]]:
    """(Batch on the devices, names of its real rows)."""
    for arrays in eval_batches(source, **self.options):
      device = shard_batch({k: arrays[k] for k in ("image", "label")}, self.mesh)
      yield Batch(**device), arrays["names"]

  def run(
    self,
    count: Callable,
    variables: Any,
    source: Any,
    choice: Choice,
    per_image: bool = False,
    progress: Callable[[int], None] = lambda done: None,
    totals: Totals | None = None,
  ) -> Totals:
    """Adds up `count(variables, batch, choice)` over a source, one batch behind the device.

    Totals of another source are added to, where given.
    """
    totals = Totals() if totals is None else totals
    waiting, arrays, done = None, choice.arrays(), 0
    for batch, names in self.batches(source):
      counts = count(variables, batch, arrays)
      if waiting is not None:
        totals.add(jax.device_get(waiting[0]), waiting[1], per_image)
      waiting = (counts, names)
      done += len(names)
      progress(done)
    if waiting is not None:
      totals.add(jax.device_get(waiting[0]), waiting[1], per_image)
    return totals


def make_evaluator(config: ConfigDict, mesh: Any) -> Evaluator:
  """The evaluator of a config."""
  return Evaluator(
    mesh,
    batch_size=config.loader.eval_batch_size,
    size_multiple=config.loader.size_multiple,
    size_remainder=config.segmenter.size_remainder,
    pad_value=assemble.padding(config),
    threads=config.loader.threads,
  )
