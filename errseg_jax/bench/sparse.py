"""Time of a trained detail branch against mIoU as fewer tiles are wanted, on the images of a split."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from rich.table import Table

from errseg_jax import assemble
from errseg_jax.bench.rounds import seconds_of
from errseg_jax.errors import UserError
from errseg_jax.inference.choice import Choice, fused_probabilities, rebalanced
from errseg_jax.inference.evaluator import make_evaluator
from errseg_jax.inference.speed import hardware
from errseg_jax.metrics.segmentation import confusion_matrix, segmentation_scores
from errseg_jax.models.error_aware import ErrorAware, infer, single_pass
from errseg_jax.models.sparse import Sparse
from errseg_jax.progress import progress_bar
from errseg_jax.sharding import make_mesh, place
from errseg_jax.structs import IGNORE, Batch
from errseg_jax.train.restore import trained_variables
from errseg_jax.train.stages import plan, trained_branches

THRESHOLDS = (0.01, 0.03, 0.05, 0.1, 0.2)


def sparse(config: ConfigDict, workdir: pathlib.Path, split: str) -> dict[str, Any]:
  """Scores of a run, and times of its detail branch, dense and sparse.

  Args:
    config: of the workdir; its sparse.tile, and its threshold beside THRESHOLDS.
    workdir: of a run with a decoder as detail branch.
    split: of its data set.

  Returns:
    {"split", "hardware", "image_size", "tile", "norm", "network_ms", "rows": [{"threshold", "mIoU", "wanted",
    "worked", "ms", "saved"}]}. Threshold 0 is dense. "mIoU": of the fused labels. "wanted": percent of the tiles that
    are; "worked": percent that run, all of them in an image that runs densely. "ms": what the detail branch adds to an
    image at batch 1, the mean over images of the least over rounds. "saved": percent of the dense branch's.

  Raises:
    UserError: the run has no such detail branch.
  """
  branches = trained_branches(plan(config))
  if "detail" not in branches or config.detail_branch.name != "detail":
    raise UserError(f"{workdir}: --what=sparse wants a run with a detail branch of name 'detail'")
  dataset = assemble.dataset(config)
  source, info = dataset.source(split), dataset.info
  model, mesh = single_pass(assemble.model(config, info.num_classes)), make_mesh(1)
  variables, choice = place(trained_variables(config, workdir, model), mesh), Choice.load(workdir)
  thresholds = sorted({*THRESHOLDS, config.sparse.threshold} - {0.0})
  models = {0.0: model} | {t: model.clone(sparse=Sparse(t, config.sparse.tile)) for t in thresholds}
  evaluator, rows = make_evaluator(config, mesh), []
  for threshold, network in models.items():
    with progress_bar(f"sparse at {threshold:g}", len(source)) as show:
      counter = make_counter(network, choice, branches)
      counts = evaluator.run(counter, variables, source, choice, progress=show).counts
    miou = segmentation_scores(counts["confusion"], info.classes, info.absent)["mIoU"] or 0.0
    wanted, ran, images = (float(n) for n in counts["tiles"])
    shares = {"wanted": 100 * wanted / images, "worked": 100 * ran / images}
    rows.append({"threshold": threshold, "mIoU": miou, **shares})
  size, ms = times(config, models, variables, source)
  dense = ms["0"] - ms["network"]
  for row in rows:
    own = ms[f"{row['threshold']:g}"] - ms["network"]
    row |= {"ms": own, "saved": 100 * (dense - own) / max(dense, 1e-9)}
  return {
    "split": split,
    "hardware": hardware(),
    "image_size": size,
    "tile": config.sparse.tile,
    "norm": config.detail_branch.norm,
    "network_ms": ms["network"],
    "rows": rows,
  }


def times(
  config: ConfigDict, models: dict[float, ErrorAware], variables: Any, source: Any
) -> tuple[list[int], dict[str, float]]:
  """([height, width] as padded, milliseconds of the network alone, "network", and with detail branch by threshold)."""

  def program(model: ErrorAware, *wanted: str) -> Callable[[Any, jax.Array], Any]:
    def run(variables, image):
      outputs = infer(model, variables, image, wanted)
      return outputs.semantic, outputs.detail

    return jax.jit(run)

  programs = {"network": program(models[0.0])}
  programs |= {f"{t:g}": program(model, "detail") for t, model in models.items()}
  size, seconds = seconds_of(config, programs, variables, source)
  return size, {name: 1000 * float(s.min(1).mean()) for name, s in seconds.items()}


def make_counter(
  model: ErrorAware, choice: Choice, branches: tuple[str, ...]
) -> Callable[[Any, Batch, dict], dict[str, jax.Array]]:
  """A jitted (variables, batch, choice arrays) -> confusion of the fused labels; sums over images of the shares of
  tiles that are wanted and that run, and images."""
  run = functools.partial(model.apply, wanted=branches, mutable=["intermediates"])

  @jax.jit
  def count(variables, batch: Batch, arrays):
    outputs, kept = run(variables, batch.image, sparsely=model.sparse is not None)
    fused = fused_probabilities(rebalanced(outputs, model.detail_weights, arrays), choice.fusion, arrays)
    real = (batch.label != IGNORE).any((1, 2))  # not what fills the last batch
    shares = [real, real]
    if model.sparse is not None:
      found = kept["intermediates"]["detail"]
      shares = [real * found["wanted"][0].mean(1), real * found["worked"][0]]
    return {
      "confusion": confusion_matrix(batch.label, fused.argmax(-1), fused.shape[-1]),
      "tiles": jnp.stack([x.sum().astype(jnp.float32) for x in (*shares, real)]),
    }

  return count


def table(found: dict[str, Any]) -> Table:
  """The rows as a table."""
  height, width = found["image_size"]
  device, norm = found["hardware"]["device"], found["norm"]
  out = Table(
    title=f"{found['split']}, {height}x{width} pixels, tiles of {found['tile']}, norm {norm}, batch 1, {device}"
  )
  for column in ("threshold", "mIoU", "to dense", "% wanted", "% run", "detail ms", "% saved"):
    out.add_column(column, justify="right")
  for row in found["rows"]:
    difference = row["mIoU"] - found["rows"][0]["mIoU"]
    cells = (f"{row['mIoU']:.2f}", f"{difference:+.2f}", f"{row['wanted']:.1f}", f"{row['worked']:.1f}")
    out.add_row(f"{row['threshold']:g}", *cells, f"{row['ms']:.1f}", f"{row['saved']:.1f}")
  return out
