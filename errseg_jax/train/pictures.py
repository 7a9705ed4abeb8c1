"""Strips of a few images of the choose split, drawn as it is scored: image | truth | network | P_ep | corrected."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import cv2
import jax
import numpy as np

from errseg_jax import processes
from errseg_jax.data.pipeline import bucket, stacked
from errseg_jax.data.scores import joined
from errseg_jax.inference.choice import Choice, fused_probabilities, rebalanced
from errseg_jax.inference.evaluator import Evaluator
from errseg_jax.inference.network import to_prediction
from errseg_jax.kernels import fused_labels
from errseg_jax.models.error_aware import ErrorAware, infer_coarse
from errseg_jax.sharding import shard_batch
from errseg_jax.structs import IGNORE, Prediction

SIDE = 256  # longest side of a panel, pixels
GAP = 4  # between panels, pixels
LOOKED_AT = 8  # times as many images as are drawn, to find enough of one size
GREY = (128, 128, 128)  # what is ignored
RAMP = ((0, 0, 0), (230, 159, 0), (255, 255, 255))  # P_ep 0, 0.5, 1


def coloured(labels: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> np.ndarray:
  """uint8 [H, W] -> RGB uint8 [H, W, 3]; what is no class is grey."""
  table = np.full((256, 3), GREY, np.uint8)
  table[: len(palette)] = palette
  return table[labels]


def heat(probability: np.ndarray) -> np.ndarray:
  """P_ep, float [H, W] in 0..1 -> RGB uint8 [H, W, 3]: black, orange, white."""
  stops = np.linspace(0, 255, len(RAMP))
  table = np.stack([np.interp(np.arange(256), stops, channel) for channel in zip(*RAMP, strict=True)], -1)
  return table.round().astype(np.uint8)[np.round(255 * np.clip(probability, 0, 1)).astype(np.uint8)]


def strip(panels: Sequence[np.ndarray]) -> np.ndarray:
  """RGB panels of one size beside each other, each at most SIDE pixels long."""
  height, width = panels[0].shape[:2]
  scale = min(1.0, SIDE / max(height, width))
  size = (max(1, round(scale * width)), max(1, round(scale * height)))
  gap = np.full((size[1], GAP, 3), 255, np.uint8)
  row: list[np.ndarray] = []
  for panel in panels:
    row += [gap, cv2.resize(panel, size, interpolation=cv2.INTER_AREA)]
  return np.concatenate(row[1:], 1)


def fusion_shown(model: ErrorAware, branches: Sequence[str]) -> str:
  """What labels the last panel before a fusion is chosen; "semantic": there is nothing to correct with."""
  if "detail" not in branches:
    return "semantic"
  if "error" not in branches:
    return "detail"
  return "soft" if model.refine is None else "refined"


class Album:
  """Draws the same images of a source with the variables of the moment. Only the first process does.

  They are padded as they are when they are scored, and all to the same size, so that one program is compiled: images of
  other sizes are not drawn.

  Args:
    evaluator: whose devices, padding and batch size are used.
    model: the network, `at_home` there.
    source: labelled images.
    count: images that are drawn, spread over the source; 0: none. Fewer, where few are of one size.
    branches: of "error" and "detail", those that are trained. P_ep of a network without is 1 - max probability.
    palette: RGB of each class.
  """

  def __init__(
    self, evaluator: Evaluator, model: ErrorAware, source: Any, count: int, branches: Sequence[str], palette
  ):
    self.evaluator, self.model, self.source, self.palette = evaluator, model, source, palette
    self.branches, self.fusion = branches, fusion_shown(model, branches)
    self.count = min(count, len(source)) if processes.first() else 0

  @functools.cached_property
  def _found(self) -> tuple[tuple[int, int], list[int]]:
    """(size that images are padded to, indices of the images)."""
    options, last = self.evaluator.options, len(self.source) - 1
    spread = [*np.linspace(0, last, self.count), *np.linspace(0, last, LOOKED_AT * self.count)]
    sizes: dict[tuple[int, int], list[int]] = {}
    for index in dict.fromkeys(round(float(i)) for i in spread):
      height, width = self.source[index]["label"].shape
      size = bucket(height, width, options["size_multiple"], options["size_remainder"])
      found = sizes.setdefault(size, [])
      found.append(index)
      if len(found) == self.count:
        break
    return max(sizes.items(), key=lambda entry: len(entry[1]))

  @functools.cached_property
  def _look(self) -> Any:
    weights = self.model.detail_weights

    def look(variables: Any, image: jax.Array, choice: dict) -> Prediction:
      outputs = infer_coarse(self.model, variables, image, self.branches)
      told = fused_labels(outputs.coarse, self.fusion, choice, weights)
      if told is not None:
        return Prediction(told.labels, told.semantic_labels, told.detail_labels, told.error_probability)
      outputs = rebalanced(outputs, weights, choice)
      return to_prediction(outputs, fused_probabilities(outputs, self.fusion, choice), choice)

    return jax.jit(look)

  def draw(self, variables: Any) -> dict[str, np.ndarray]:
    """{name of the image: its strip, RGB uint8 [h, w, 3]}."""
    if not self.count:
      return {}
    options, devices = self.evaluator.options, self.evaluator.mesh.shape["data"]
    size, indices = self._found
    samples = [joined(self.source[i]) for i in indices]
    rows = min(options["batch_size"], -(-len(samples) // devices) * devices)
    variables, _ = self.evaluator.own(variables, self.source)
    strips = {}
    for first in range(0, len(samples), rows):
      part = samples[first : first + rows]
      image = stacked(part, size, rows, options["pad_value"])["image"]
      device = shard_batch({"image": image}, self.evaluator.mesh)["image"]
      told = jax.device_get(self._look(variables, device, Choice().arrays()))
      for i, sample in enumerate(part):
        strips[str(sample["name"])] = self._strip(sample, jax.tree.map(lambda x, i=i: x[i], told))
    return strips

  def _strip(self, sample: dict[str, Any], told: Prediction) -> np.ndarray:
    height, width = sample["label"].shape
    own = jax.tree.map(lambda x: np.asarray(x)[:height, :width], told)
    panels = [
      np.ascontiguousarray(sample["image"][..., :3]),
      coloured(sample["label"], self.palette),
      coloured(own.semantic_labels, self.palette),
      heat(own.error_probability),
    ]
    if self.fusion != "semantic":
      panels.append(coloured(own.labels, self.palette))
    panels[3][sample["label"] == IGNORE] = GREY  # nothing is right or wrong there
    return strip(panels)
