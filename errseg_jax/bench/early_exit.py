"""Time against mIoU of a trained cascade as the threshold of its early exit moves, on the images of a split."""

from __future__ import annotations

import functools
import io
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from rich.table import Table

from errseg_jax import assemble
from errseg_jax.bench.rounds import seconds_of
from errseg_jax.errors import UserError
from errseg_jax.inference.choice import Choice, fused_probabilities, rebalanced
from errseg_jax.inference.evaluator import make_evaluator
from errseg_jax.inference.speed import hardware
from errseg_jax.metrics.segmentation import confusion_matrix, segmentation_scores
from errseg_jax.models.early_exit import EarlyExit, needed_cells, wanted_tiles
from errseg_jax.models.error_aware import ErrorAware, infer, single_pass
from errseg_jax.progress import progress_bar
from errseg_jax.sharding import make_mesh, place
from errseg_jax.structs import IGNORE, Batch
from errseg_jax.train.restore import trained_variables

THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7)
BOTH = ("error", "detail")


def early_exit(config: ConfigDict, workdir: pathlib.Path, split: str) -> dict[str, Any]:
  """Scores and times of the whole fine network and of its early exits.

  Args:
    config: of the workdir; its early_exit.tile, and its threshold beside THRESHOLDS.
    workdir: of a trained cascade.
    split: of its data set.

  Returns:
    {"split", "hardware", "image_size", "tile", "coarse_ms", "rows": [{"threshold", "mIoU", "tiles", "ms",
    "saved"}]}. Threshold 0 is the whole fine network. "tiles": percent that run. "ms": of an image at batch 1, of
    coarse and attention branch alone in "coarse_ms". "saved": percent of the time that the whole fine network adds
    to those.

  Raises:
    UserError: the workdir is none of a trained cascade.
  """
  if "cascade" not in config.order or config.detail_branch.name != "pyramid":
    raise UserError(
      f"{workdir}: --what=early_exit wants a cascade (stage 'cascade', detail branch 'pyramid')"
    )
  dataset = assemble.dataset(config)
  source, info = dataset.source(split), dataset.info
  model = single_pass(assemble.model(config, info.num_classes))
  variables = place(trained_variables(config, workdir, model), make_mesh(config.num_devices))
  tile, choice = config.early_exit.tile, Choice.load(workdir)
  models = {0.0: model} | {
    t: model.clone(early_exit=EarlyExit(t, tile))
    for t in sorted({*THRESHOLDS, config.early_exit.threshold} - {0.0})
  }
  evaluator, rows = make_evaluator(config, make_mesh(config.num_devices)), []
  for threshold, network in models.items():
    with progress_bar(f"early exit at {threshold:g}", len(source)) as show:
      counts = evaluator.run(make_counter(network, choice), variables, source, choice, progress=show).counts
    miou = segmentation_scores(counts["confusion"], info.classes, info.absent)["mIoU"] or 0.0
    ran, tiles = counts["tiles"]
    rows.append({"threshold": threshold, "mIoU": miou, "tiles": 100 * int(ran) / int(tiles)})
  size, seconds = times(config, models, variables, source)
  coarse, dense = seconds.pop("coarse"), seconds["0"]
  for row in rows:
    own = seconds[f"{row['threshold']:g}"]
    row |= {"ms": 1000 * own, "saved": 100 * (dense - own) / max(dense - coarse, 1e-9)}
  return {
    "split": split,
    "hardware": hardware(),
    "image_size": size,
    "tile": tile,
    "coarse_ms": 1000 * coarse,
    "rows": rows,
  }


def make_counter(model: ErrorAware, choice: Choice) -> Callable[[Any, Batch, dict], dict[str, jax.Array]]:
  """A jitted (variables, batch, choice arrays) -> confusion of the fused labels, tiles that run and all tiles."""
  exits = model.early_exit

  @jax.jit
  def count(variables, batch: Batch, arrays):
    outputs = infer(model, variables, batch.image)
    fused = fused_probabilities(rebalanced(outputs, model.detail_weights, arrays), choice.fusion, arrays)
    tiles = jnp.ones((batch.image.shape[0], 1, 1), bool)
    if exits is not None:
      goes_on = jax.nn.sigmoid(outputs.error) > exits.threshold
      size, corners = map_size(model, variables, batch.image), model.segmenter.head.align_corners
      tiles = wanted_tiles(needed_cells(goes_on, size, corners), exits.tile)
    real = (batch.label != IGNORE).any((1, 2), keepdims=True)  # not what fills the last batch
    confusion = confusion_matrix(batch.label, fused.argmax(-1), fused.shape[-1])
    ran = jnp.array([(tiles & real).sum(), jnp.broadcast_to(real, tiles.shape).sum()])
    return {"confusion": confusion, "tiles": ran}

  return count


def map_size(model: ErrorAware, variables: Any, image: jax.Array) -> tuple[int, int]:
  """(h, w) of the map that the fine network pools, from shapes alone."""
  run = functools.partial(model.apply, wanted=BOTH, mutable=["intermediates"])
  pooled = jax.eval_shape(run, variables, image)[1]["intermediates"]["detail"]["pooled"][0]
  return pooled.shape[1:3]


def times(
  config: ConfigDict, models: dict[float, ErrorAware], variables: Any, source: Any
) -> tuple[list[int], dict[str, float]]:
  """([height, width] as padded, {threshold or "coarse": seconds of an image}), the mean over images of the median."""
  programs = {f"{t:g}": jax.jit(functools.partial(logits, model, BOTH)) for t, model in models.items()}
  programs["coarse"] = jax.jit(functools.partial(logits, models[0.0], ("error",)))
  size, seconds = seconds_of(config, programs, variables, source)
  return size, {name: float(np.median(s, 1).mean()) for name, s in seconds.items()}


def logits(model: ErrorAware, wanted: Sequence[str], variables: Any, image: jax.Array) -> tuple[Any, ...]:
  """What the branches give, without what is made of it."""
  outputs = infer(model, variables, image, wanted)
  return outputs.semantic, outputs.error, outputs.detail


def table(found: dict[str, Any]) -> Table:
  """The curve as a table."""
  height, width = found["image_size"]
  out = Table(title=f"{found['split']}, {height}x{width} pixels, batch 1, {found['hardware']['device']}")
  for column in (
    "threshold",
    "mIoU",
    "to the whole",
    "% of tiles",
    "ms",
    "% of the fine network's time saved",
  ):
    out.add_column(column, justify="right")
  for row in found["rows"]:
    difference = row["mIoU"] - found["rows"][0]["mIoU"]
    cells = (f"{row['mIoU']:.2f}", f"{difference:+.2f}", f"{row['tiles']:.1f}", f"{row['ms']:.1f}")
    out.add_row(f"{row['threshold']:g}", *cells, f"{row['saved']:.1f}")
  return out


def plot(found: dict[str, Any]) -> str:
  """SVG of mIoU over milliseconds, each point with its threshold."""
  figure = Figure(figsize=(6, 4), layout="constrained")
  axes = figure.subplots()
  rows = found["rows"]
  axes.plot([r["ms"] for r in rows], [r["mIoU"] for r in rows], "o-", color="#0072b2")
  for number, row in enumerate(rows):
    text = f"{row['threshold']:g}" if row["threshold"] else "whole"
    axes.annotate(
      text, (row["ms"], row["mIoU"]), xytext=(4, (-12, 6)[number % 2]), textcoords="offset points", fontsize=8
    )
  axes.axvline(found["coarse_ms"], color="#999999", linestyle=":")
  axes.set_xlabel("ms per image; dotted: without the fine network")
  axes.set_ylabel(f"mIoU, {found['split']}, %")
  axes.set_title("early exit by threshold", fontsize=10)
  out = io.StringIO()
  figure.savefig(out, format="svg", metadata={"Date": None})
  return out.getvalue()
