"""Runs a network over a source and adds up counts; memory does not grow with the number of images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from errseg_jax import assemble, processes
from errseg_jax.data.pipeline import eval_batches
from errseg_jax.data.splits import Subset
from errseg_jax.inference.choice import Choice
from errseg_jax.inference.image_log import Extremes, ImageScores, Thinned
from errseg_jax.metrics.errors import image_score_sums
from errseg_jax.metrics.image_quality import expected_miou, image_miou
from errseg_jax.models.error_aware import ErrorAware
from errseg_jax.sharding import OWN, make_mesh, place, shard_batch
from errseg_jax.structs import Batch


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
    extremes: the images worth a look, by name.
  """

  counts: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  images: int = 0
  image_scores: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  moments: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  points: Thinned = dataclasses.field(default_factory=Thinned)
  image_miou: float = 0.0
  extremes: Extremes = dataclasses.field(default_factory=Extremes)

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
      expected = math.nan
      if "expected" in rows:
        confusion, right = rows["semantic_confusion"][i], rows["expected"][i]
        expected = 100 * float(right.sum()) / valid
        pairs = {
          "accuracy": (expected, float(real)),
          "mIoU": (expected_miou(confusion.sum(0), right), image_miou(confusion)),
        }
        self.points.add(pairs["accuracy"])
        for key, (x, y) in pairs.items():
          moments = self.moments.setdefault(key, np.zeros(6))
          moments += (x, y, x * x, y * y, x * y, abs(x - y))
      self.extremes.add(ImageScores(name, float(real), float(fused), expected))

  def merge(self, other: Totals) -> None:
    """Adds the sums of other images."""
    self.images += other.images
    self.image_miou += other.image_miou
    for mine, theirs in (
      (self.counts, other.counts),
      (self.image_scores, other.image_scores),
      (self.moments, other.moments),
    ):
      for key, value in theirs.items():
        mine[key] = mine[key] + value if key in mine else value
    self.points.merge(other.points)
    self.extremes.merge(other.extremes)

  def arrays(self) -> dict[str, np.ndarray]:
    """All of it as arrays, for another process; `of_arrays` reads them."""
    sums = {"counts": self.counts, "image_scores": self.image_scores, "moments": self.moments}
    return {
      **{f"{kind}/{key}": value for kind, part in sums.items() for key, value in part.items()},
      "images": np.array([self.images, self.points.stride, self.points.seen]),
      "image_miou": np.array(self.image_miou),
      "points": np.array(self.points.points, np.float64).reshape(-1, 2),
      **{f"extremes/{key}": value for key, value in self.extremes.arrays().items()},
    }

  @classmethod
  def of_arrays(cls, arrays: dict[str, np.ndarray]) -> Totals:
    """From `arrays`."""
    images, stride, seen = (int(n) for n in arrays["images"])
    points = Thinned([(float(x), float(y)) for x, y in arrays["points"]], stride, seen)
    sums: dict[str, dict[str, np.ndarray]] = {"counts": {}, "image_scores": {}, "moments": {}, "extremes": {}}
    for name, value in arrays.items():
      kind, _, key = name.partition("/")
      if key:
        sums[kind][key] = value
    extremes = Extremes.of_arrays(sums.pop("extremes"))
    image_miou = float(arrays["image_miou"])
    return cls(images=images, points=points, image_miou=image_miou, extremes=extremes, **sums)


class Evaluator:
  """Batches of a source through a jitted counter.

  Of several processes each counts its share of the images on its own devices, and hears of the others' counts.

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
    self.mesh = make_mesh(OWN) if processes.several() else mesh
    devices = self.mesh.shape["data"]
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

  def at_home(self, model: ErrorAware) -> ErrorAware:
    """A model whose kernels are split over the evaluator's devices."""
    return model.clone(num_devices=OWN) if processes.several() else model

  def own(self, variables: Any, source: Any) -> tuple[Any, Any]:
    """Of several processes, this one's copy of the variables and its share of the images."""
    if not processes.several():
      return variables, source
    return place(variables, self.mesh), Subset(source, processes.own_share(len(source)))

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
    if not processes.several():
      self._run(count, variables, source, choice, per_image, progress, totals)
      return totals
    own = Totals()
    self._run(count, *self.own(variables, source), choice, per_image, progress, own)
    for arrays in processes.gathered(own.arrays()):
      totals.merge(Totals.of_arrays(arrays))
    return totals

  def _run(self, count, variables, source, choice, per_image, progress, totals: Totals) -> None:
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
