"""`errseg evaluate`: every score of a trained workdir on a split -> results.json, evaluation.npz, a table."""

from __future__ import annotations

import functools
import json
import os
import pathlib
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from errseg_jax import assemble, processes
from errseg_jax.data.splits import stretches
from errseg_jax.errors import UserError
from errseg_jax.inference.choice import Choice
from errseg_jax.inference.choose import mask_confusion
from errseg_jax.inference.confidnet import VoidAsClass, confidnet_scores, make_confidnet_counter
from errseg_jax.inference.evaluator import Evaluator, Totals, make_evaluator
from errseg_jax.inference.extra_scores import SCORES as EXTRA_SCORES
from errseg_jax.inference.extra_scores import check_dropout, make_extra_counter
from errseg_jax.inference.speed import hardware, speed, versions
from errseg_jax.inference.statistics import make_counter
from errseg_jax.metrics.errors import error_scores, mask_scores, per_image_scores, threshold_scores
from errseg_jax.metrics.presence import presence_scores
from errseg_jax.metrics.segmentation import boundary_iou, segmentation_scores
from errseg_jax.models.error_aware import ErrorAware
from errseg_jax.progress import progress_bar
from errseg_jax.sharding import make_mesh, place
from errseg_jax.structs import DatasetInfo
from errseg_jax.train.restore import resting_variables, stage_result
from errseg_jax.train.stages import plan, trained_branches
from errseg_jax.train.state import merge
from errseg_jax.train.workdir import check_writable

SWEEP = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # thresholds that are always scored


def evaluate(
  config: ConfigDict,
  workdir: pathlib.Path,
  split: str,
  scores: tuple[str, ...] = (),
  confidnet: bool = False,
  oracle: bool = False,
) -> dict[str, Any]:
  """Scores a workdir and writes results.json and evaluation.npz there; results_SPLIT.json for another split.

  Args:
    config: of the workdir.
    workdir: of a finished run.
    split: of its data set.
    scores: of inference.extra_scores.SCORES, beside the free ones.
    confidnet: score by ConfidNet's convention too.
    oracle: score the fused labels restricted to the classes that each image's annotation shows, too.

  Returns:
    The content of results.json.

  Raises:
    UserError: a stage or the split is missing, a file is damaged, the network cannot give a score, or the workdir
      cannot be written.
  """
  check_writable(workdir)
  dataset = assemble.dataset(config)
  source, info = dataset.source(split), dataset.info
  model, crf = assemble.model(config, info.num_classes), assemble.crf(config)
  evaluator = make_evaluator(config, make_mesh(config.num_devices))
  model, mesh = evaluator.at_home(model), evaluator.mesh
  if mesh.devices.size > 1:  # each would run the tiles of all
    model = model.clone(sparse=None)
  variables = place(resting_variables(config, workdir, model), mesh)
  stages = {stage.name: stage for stage in plan(config)}
  branches = trained_branches(stages.values())
  if confidnet and "error" not in branches:
    raise UserError(f"--confidnet: {workdir} has no error branch (config.order)")
  check_scores(scores, model, variables)
  choice = Choice.load(workdir) if "detail" in branches else Choice()
  thresholds = tuple(sorted({*SWEEP, *assemble.thresholds(config)}))
  passes = [(choice, source)]
  if choice.halves and split == config.splits.val:
    passes = list(zip(choice.halves, stretches(source, 2), strict=True))
  options = {
    "wanted": branches,
    "thresholds": thresholds,
    "rho": config.error_loss.rho,
    "oracle": oracle,
    "crf": crf,
  }
  totals = run_passes(evaluator, model, variables, passes, f"evaluate {split}", **options)
  if scores:
    extra = make_extra_counter(model, scores, config.loader.size_multiple, config.segmenter.size_remainder)
    totals.counts |= evaluator.run(extra, variables, source, choice).counts
  results = {
    **about(config, split, source, info),
    **segmentation_results(totals, info),
    **({"chosen": chosen(choice)} if "detail" in branches else {}),
    **presence_results(totals, info),
    **error_results(totals, choice, thresholds, info),
    **sight_results(config, model),
  }
  if confidnet:
    parts = [(own, VoidAsClass(part, info.num_classes)) for own, part in passes]
    results["error"]["conventions"] |= confidnet_results(evaluator, model, variables, parts)
  if "control" in stages:
    control = merge(variables, stage_result(config, workdir, stages["control"], variables))
    results["control"] = control_scores(evaluator, model, control, source, info)
    results["control"]["steps"] = stages["control"].steps
  if crf is not None:
    results["crf"] |= crf_results(config, variables, totals)
  results["speed"] = speed(model, variables, evaluator, source, branches)
  # Another split than the reported one leaves the reported scores as they are.
  suffix = "" if split == config.splits.val else f"_{split.replace('/', '_')}"
  if processes.first():
    write_evaluation(workdir, results, totals, suffix)
    print_results(results)
  processes.wait()
  return results


def about(config: ConfigDict, split: str, source: Any, info: DatasetInfo) -> dict[str, Any]:
  """What was scored, and where."""
  return {
    "schema": 1,
    "dataset": config.data.name,
    "split": split,
    "num_images": len(source),
    "classes": list(info.classes),
    "seed": config.seed,
    "hardware": hardware(),
    "versions": versions(),
  }


def sight_results(config: ConfigDict, model: ErrorAware) -> dict[str, Any]:
  """Settings of what the network at rest does otherwise than in training."""
  names = ("early_exit", "sparse", "views", "tiles")
  return {name: config[name].to_dict() for name in names if getattr(model, name) is not None}


def crf_results(config: ConfigDict, variables: Any, totals: Totals) -> dict[str, Any]:
  """Settings of the CRF, tuned ones in place, and the labels that each iteration changed, percent."""
  tuned = variables.get("tuned", {})
  settings = config.crf.to_dict() | {name: float(tuned[name]) for name in {"alpha", "lam"} & tuned.keys()}
  changed = 100 * totals.counts["crf/changed"] / totals.counts["crf/images"]
  return {"settings": settings, "changed": changed.tolist()}


def run_passes(
  evaluator: Evaluator,
  model: ErrorAware,
  variables: Any,
  passes: list[tuple[Choice, Any]],
  title: str,
  **options: Any,
) -> Totals:
  """Counts of parts of a source, each under its own choice, under one progress bar.

  Args:
    evaluator: runs the network.
    model: the network.
    variables: trained.
    passes: (choice, part) pairs.
    title: of the progress bar.
    **options: of `make_counter`.
  """
  totals, before = Totals(), 0
  with progress_bar(title, sum(len(part) for _, part in passes)) as show:
    for own, part in passes:
      counter = make_counter(model, fusion=own.fusion, **options)
      update = functools.partial(lambda before, done: show(before + done), before)
      evaluator.run(counter, variables, part, own, per_image=True, progress=update, totals=totals)
      before += len(part)
  return totals


def control_scores(
  evaluator: Evaluator, model: ErrorAware, control: Any, source: Any, info: DatasetInfo
) -> dict[str, Any]:
  """Scores of the network that was trained on."""
  counter = make_counter(model.clone(subnets=None, guidance=None), wanted=())
  counts = evaluator.run(counter, control, source, Choice()).counts
  return segmentation_scores(counts["confusion/semantic"], info.classes, info.absent)


def check_scores(scores: tuple[str, ...], model: ErrorAware, variables: Any) -> None:
  """Before anything is computed.

  Raises:
    UserError: an unknown score, or one that the network cannot give.
  """
  for score in scores:
    assemble.known(score, EXTRA_SCORES, "--scores")
  if "mc_dropout" in scores:
    check_dropout(model, variables)


def confidnet_results(evaluator: Evaluator, model: ErrorAware, variables: Any, parts: list) -> dict[str, Any]:
  """`confidnet_scores` over parts of a source, each under its own choice: pairs (Choice, VoidAsClass)."""
  totals, counter = Totals(), make_confidnet_counter(model)
  for choice, part in parts:
    evaluator.run(counter, variables, part, choice, totals=totals)
  return confidnet_scores(totals.counts)


def segmentation_results(totals: Totals, info: DatasetInfo) -> dict[str, Any]:
  """Scores from the confusion matrices, without guidance and subnets ("base") too; boundary IoU where counted."""
  out: dict[str, Any] = {}
  for name in ("base", "semantic", "detail", "fused", "crf", "oracle"):
    if f"confusion/{name}" in totals.counts:
      out[name] = segmentation_scores(totals.counts[f"confusion/{name}"], info.classes, info.absent)
    if f"boundary/{name}" in totals.counts:
      left_out = [c for c, iou in out[name]["IoU"].items() if iou is None]
      out[name] |= boundary_iou(totals.counts[f"boundary/{name}"], info.classes, left_out)
  return out


def presence_results(totals: Totals, info: DatasetInfo) -> dict[str, Any]:
  """ "presence": how well the global scores name the classes of an image; nothing without guidance."""
  if "presence" not in totals.counts:
    return {}
  return {"presence": presence_scores(totals.counts["presence"], info.classes)}


def chosen(choice: Choice) -> dict[str, Any]:
  """What the fused labels are, and what it was chosen on."""
  return {
    "threshold": choice.threshold,
    "fusion": choice.fusion,
    "on": choice.on,
    "candidates": choice.candidates,
    "halves": [{"threshold": half.threshold, "fusion": half.fusion} for half in choice.halves],
  }


def error_results(
  totals: Totals, choice: Choice, thresholds: tuple[float, ...], info: DatasetInfo
) -> dict[str, Any]:
  """ "calibration", "error", "image_level"; scores of the free baselines alone without an error branch."""
  counts = totals.counts
  histograms = {k.removeprefix("histogram/"): v for k, v in counts.items() if k[:10] == "histogram/"}
  baselines = {k: error_scores(v) for k, v in histograms.items() if k not in ("error", "error_raw")}
  temperature = choice.temperature if choice.on else None
  if temperature is None:  # nothing was fitted
    del baselines["temperature"]
  if "error" not in histograms:
    found = {"rate": baselines["max_probability"]["rate"], "baselines": baselines}
    return {"calibration": {"temperature": temperature}, "error": found}
  hist, hard = histograms["error"], counts["hard"]
  errors = int(hist[1].sum())
  error: dict[str, Any] = {
    "threshold": choice.threshold,
    **error_scores(hist),
    **mask_scores(counts["mask"]),
    "hard_ratio": 100 * int(hard.sum()) / errors if errors else None,
    "conventions": {
      "per_image": {k: per_image_scores(v) for k, v in totals.image_scores.items()}["error"],
      "per_image_max_probability": per_image_scores(totals.image_scores["max_probability"]),
      "confidnet": None,
    },
    "baselines": baselines,
  }
  if "by_threshold" in counts:
    error["by_threshold"] = sweep(counts, hist, hard, thresholds, info)
  return {
    "calibration": {
      "before": error_scores(histograms["error_raw"])["ECE"],
      "after": error["ECE"],
      "temperature": temperature,
    },
    "error": error,
    "image_level": image_level(totals),
  }


def sweep(counts, hist, hard, thresholds, info: DatasetInfo) -> list[dict[str, Any]]:
  """Scores of the error mask and of the mask fusion at each t (P0, Table 1)."""
  rows = []
  for k, t in enumerate(thresholds):
    row = threshold_scores(hist, hard, t)
    confusion = mask_confusion(counts["by_threshold"], k)
    rows.append(row | {"mIoU": segmentation_scores(confusion, info.classes, info.absent)["mIoU"]})
  return rows


def image_level(totals: Totals) -> dict[str, float | None]:
  """Mean image mIoU; expected against real accuracy and mIoU per image: mean absolute error and correlation."""
  n = totals.images
  out = {"mIoU_img": totals.image_miou / n if n else None}
  for name in ("accuracy", "mIoU"):
    difference, correlation = None, None
    if n:
      x, y, xx, yy, xy, difference = (float(v) for v in totals.moments[name] / n)
      spread = (xx - x * x) * (yy - y * y)
      correlation = (xy - x * y) / spread**0.5 if spread > 1e-12 else None
    out |= {f"{name}_mae": difference, f"{name}_corr": correlation}
  return out


def write_evaluation(workdir: pathlib.Path, results: dict[str, Any], totals: Totals, suffix: str) -> None:
  """results.json, and evaluation.npz with what the report's curves need; each whole or not at all.

  The suffix goes before the file extension.
  """
  arrays = {k: v for k, v in totals.counts.items() if k.split("/")[0] in ("histogram", "confusion")}
  arrays |= {f"extremes/{k}": v for k, v in totals.extremes.arrays().items()}
  arrays["images/accuracy"] = np.array(totals.points.points, np.float64).reshape(-1, 2)
  part = workdir / "evaluation.tmp.npz"
  named: Any = {k.replace("/", "."): v for k, v in arrays.items()}
  np.savez_compressed(part, **named)
  os.replace(part, workdir / f"evaluation{suffix}.npz")
  part = workdir / "results.tmp"
  part.write_text(json.dumps(results, indent=1) + "\n")
  os.replace(part, workdir / f"results{suffix}.json")


def read_results(workdir: pathlib.Path) -> dict[str, Any]:
  """results.json of a workdir.

  Raises:
    UserError: it is missing or damaged.
  """
  path = workdir / "results.json"
  try:
    return json.loads(path.read_text())
  except FileNotFoundError:
    raise UserError(f"{path} is missing: run `errseg evaluate --workdir={workdir}` first") from None
  except ValueError:
    raise UserError(f"{path} is damaged: run `errseg evaluate --workdir={workdir}` again") from None


def print_results(results: dict[str, Any]) -> None:
  """Two tables on the terminal: label maps, error scores."""
  console = Console()
  table = Table(title=f"{results['dataset']} {results['split']}, {results['num_images']} images")
  names = ("mIoU", "aAcc", "mAcc", "mDice", "mBIoU")
  for column in ("", *names):
    table.add_column(column, justify="right" if column else "left")
  for system in ("base", "semantic", "control", "detail", "fused", "crf", "oracle"):
    if system in results:
      table.add_row(system, *(_number(results[system].get(n)) for n in names))
  console.print(table)
  if "presence" in results:
    console.print(
      "classes of an image: " + ", ".join(f"{n} {_number(results['presence'][n])}" for n in ("mAP", "mF1"))
    )
  error = results["error"]
  scores = ("AUROC", "AUPR_error", "AUPR_success", "FPR95", "AURC", "ECE")
  table = Table(title=f"finding the errors ({_number(error.get('rate'))} % of the pixels are wrong)")
  for column in ("", *scores):
    table.add_column(column, justify="right" if column else "left")
  if "AUROC" in error:
    table.add_row("P_ep", *(_number(error[n]) for n in scores))
  for name, row in error["baselines"].items():
    table.add_row(name, *(_number(row[n]) for n in scores))
  console.print(table)
  if "temperature" in error["baselines"]:
    before, after = (_number(error["baselines"][n]["ECE"]) for n in ("max_probability", "temperature"))
    value = _number(results.get("calibration", {}).get("temperature"))
    console.print(f"ECE of max probability: {before}, and {after} with temperature {value}")


def _number(value: float | None) -> str:
  return "-" if value is None else f"{value:.2f}"
