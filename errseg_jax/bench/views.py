"""What views of doubtful tiles alone gain, and cost, beside views of whole images: of a trained run on a split."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict
from rich.table import Table

from errseg_jax import assemble
from errseg_jax.assemble import sight
from errseg_jax.bench.rounds import seconds_of
from errseg_jax.inference.choice import Choice
from errseg_jax.inference.evaluator import make_evaluator
from errseg_jax.inference.speed import hardware
from errseg_jax.metrics.segmentation import confusion_matrix, segmentation_scores
from errseg_jax.models.error_aware import ErrorAware, infer, single_pass
from errseg_jax.progress import progress_bar
from errseg_jax.sharding import make_mesh, place
from errseg_jax.structs import Batch
from errseg_jax.train.restore import trained_variables
from errseg_jax.train.stages import plan, trained_branches

SHARES = (0.1, 0.2, 0.3, 0.5)
SCALES = (0.8, 1.0, 1.2)  # P3's, mirrored too, where the config has a single view


def views(config: ConfigDict, workdir: pathlib.Path, split: str) -> dict[str, Any]:
  """Scores of the frozen labels, and times, of one view, all views, and all views of a share of the tiles.

  Args:
    config: of the workdir; its views.tile and views.margin, its views where it has several, and its views.share
      beside SHARES.
    workdir: of a trained run; with an error branch P_ep says where to look again, else max probability.
    split: of its data set.

  Returns:
    {"split", "hardware", "image_size", "views", "rows": [{"views": "one" | "all" | share, "mIoU", "ms", "gain",
    "cost"}]}. "ms": of an image at batch 1, the mean over images of the least over rounds. "gain": percent of what all
    views of whole images gain over one, in mIoU; "cost": of what they add in time. The branches that say where to look
    run in a first pass; rows of a share are charged what they add to that.
  """
  branches = trained_branches(plan(config))
  wanted = ("error",) if "error" in branches else ()
  dataset = assemble.dataset(config)
  source, info = dataset.source(split), dataset.info
  several = {} if sight.views(config) else {"scales": SCALES, "mirror": True}
  settings = {**config.views.to_dict(), **several, "combine": "mean"}
  model = single_pass(assemble.model(config, info.num_classes))
  variables = place(trained_variables(config, workdir, model), make_mesh(1))
  networks = {"one": (model, ()), "first": (model, wanted)}
  for share in (1.0, *sorted({*SHARES, config.views.share} - {1.0})):
    seen = config.copy_and_resolve_references()
    seen.views.update(settings, share=share)
    own = model.clone(views=sight.views(seen))
    networks["all" if share == 1 else f"{share:g}"] = (own, () if share == 1 else wanted)
  scores, evaluator = {}, make_evaluator(config, make_mesh(1))
  for name, network in networks.items():
    if name != "first":
      with progress_bar(f"views: {name}", len(source)) as show:
        counts = evaluator.run(make_counter(*network), variables, source, Choice(), progress=show).counts
      scores[name] = segmentation_scores(counts["confusion"], info.classes, info.absent)["mIoU"] or 0.0
  programs = {name: program(*network) for name, network in networks.items()}
  size, seconds = seconds_of(config, programs, variables, source)
  ms = {name: 1000 * float(s.min(1).mean()) for name, s in seconds.items()}
  rows = []
  for name, score in scores.items():
    added = ms[name] - ms["one" if name in ("one", "all") else "first"]
    gain = 100 * (score - scores["one"]) / (scores["all"] - scores["one"] or 1e-9)
    cost = 100 * added / max(ms["all"] - ms["one"], 1e-9)
    rows.append({"views": name, "mIoU": score, "ms": ms[name], "gain": gain, "cost": cost})
  return {"split": split, "hardware": hardware(), "image_size": size, "views": settings, "rows": rows}


def program(model: ErrorAware, wanted: tuple[str, ...]) -> Callable[[Any, jax.Array], jax.Array]:
  """A jitted (variables, image) -> semantic logits, and P_ep where it is wanted."""

  def run(variables: Any, image: jax.Array) -> Any:
    outputs = infer(model, variables, image, wanted)
    return outputs.semantic, outputs.error

  return jax.jit(run)


def make_counter(
  model: ErrorAware, wanted: tuple[str, ...]
) -> Callable[[Any, Batch, dict], dict[str, jax.Array]]:
  """A jitted (variables, batch, choice arrays) -> confusion of the semantic labels."""
  run = functools.partial(infer, model, wanted=wanted)

  @jax.jit
  def count(variables, batch: Batch, arrays):
    del arrays
    semantic = run(variables, batch.image).semantic
    return {"confusion": confusion_matrix(batch.label, semantic.argmax(-1), semantic.shape[-1])}

  return count


def table(found: dict[str, Any]) -> Table:
  """The rows as a table."""
  height, width = found["image_size"]
  seen, device = found["views"], found["hardware"]["device"]
  scales = ", ".join(f"{s:g}" for s in seen["scales"])
  tiles = f"tiles of {seen['tile']} with {seen['margin']} around"
  title = f"{found['split']}, {height}x{width} pixels, scales {scales}{' mirrored' * seen['mirror']}, {tiles}, {device}"
  out = Table(title=title)
  for column in ("views", "mIoU", "ms", "% of the gain", "% of the cost"):
    out.add_column(column, justify="right")
  for row in found["rows"]:
    cells = (f"{row['mIoU']:.2f}", f"{row['ms']:.1f}", f"{row['gain']:.0f}", f"{row['cost']:.0f}")
    out.add_row(row["views"], *cells)
  return out
