"""What the runs of an ablation say: scores of each row and seed, paired differences, means, budgets."""

from __future__ import annotations

import functools
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from errseg_jax.ablation.alternatives import branch_steps
from errseg_jax.ablation.class_gains import class_gains, confused_classes
from errseg_jax.ablation.rows import BASE, CONTROL, ROWS
from errseg_jax.bench.size import size
from errseg_jax.evaluate import read_results
from errseg_jax.train.stages import plan
from errseg_jax.train.workdir import load_config
from errseg_jax.train.writers import read_metrics

ERROR_SCORES = ("AUROC", "AUPR_error", "AUPR_success", "FPR95", "AURC", "AUGRC", "ECE")
DIFFERENCES = {"vs_base": BASE, "vs_base_longer": CONTROL}


def summarise(
  workdir: pathlib.Path,
  config: ConfigDict,
  names: Sequence[str],
  seeds: Iterable[int],
  failed: Mapping[str, str],
) -> dict[str, Any]:
  """The content of ablation.json.

  Args:
    workdir: of the ablation.
    config: of the ablation.
    names: rows that were asked for; others that lie finished in the workdir are told too.
    seeds: that were asked for.
    failed: {"seed0/paper": why}.
  """
  seeds = list(seeds)
  found = {
    name: {s: run_scores(folder) for s in seeds if finished(folder := workdir / f"seed{s}" / name)}
    for name in ROWS
  }
  shown = [name for name in ROWS if name in names or found[name]]
  confused = {seed: confused_classes(config, workdir / f"seed{seed}" / BASE) for seed in seeds}
  for name in shown:
    for seed, scores in found[name].items():
      scores |= differences(scores, {key: found[other].get(seed) for key, other in DIFFERENCES.items()})
      scores |= class_gains(scores, found[BASE].get(seed), confused[seed])
  missing = [f"seed{s}/{name}" for s in seeds for name in shown if s not in found[name]]
  return {
    "schema": 1,
    "dataset": config.data.name,
    "split": config.splits.val,
    "seeds": seeds,
    "branch_steps": branch_steps(config),
    "missing": missing,
    "failed": dict(failed),
    "rows": {name: row_summary(workdir, name, found[name], branch_steps(config)) for name in shown},
  }


def finished(folder: pathlib.Path) -> bool:
  """Whether a row is trained and scored."""
  return (folder / "results.json").exists()


def run_scores(folder: pathlib.Path) -> dict[str, Any]:
  """Scores of one finished run; None where it has none.

  What it hands out is its fused labels, after the CRF where it has one; of a network trained on, that network's. Its
  own network is the one without guidance and subnets.
  """
  results = read_results(folder)
  system = next(s for s in ("control", "crf", "fused", "semantic") if s in results)
  error = results["error"]
  image_level, calibration = results.get("image_level", {}), results.get("calibration", {})
  return {
    "mIoU": results[system]["mIoU"],
    "aAcc": results[system]["aAcc"],
    "class_IoU": results[system]["IoU"],
    "network_mIoU": results.get("base", results["semantic"])["mIoU"],
    # Beside a network trained on, "oracle" is still of the one it started from.
    "oracle_mIoU": None if system == "control" else results.get("oracle", {}).get("mIoU"),
    "presence_mAP": results.get("presence", {}).get("mAP"),
    "presence_mF1": results.get("presence", {}).get("mF1"),
    "fusion": results.get("chosen", {}).get("fusion"),
    **{name: error.get(name) for name in ERROR_SCORES},
    "ECE_before": calibration.get("before"),
    "ECE_after": calibration.get("after"),
    "accuracy_mae": image_level.get("accuracy_mae"),
    "accuracy_corr": image_level.get("accuracy_corr"),
    "IoU": error.get("IoU"),
    "hard_recall": error.get("hard_recall"),
    "hard_ratio": error.get("hard_ratio"),
    "baselines": {k: {n: v.get(n) for n in ERROR_SCORES} for k, v in error["baselines"].items()},
    "by_threshold": error.get("by_threshold", []),
    "speed": results["speed"],
    "hardware": results["hardware"],
    "seconds": seconds(folder),
  }


def seconds(folder: pathlib.Path) -> float | None:
  """Time of a run's training steps, from the rates that it logged; None without any."""
  batch_sizes = {stage.name: stage.batch_size for stage in plan(load_config(folder))}
  total = 0.0
  done = dict.fromkeys(batch_sizes, 0)
  for row in read_metrics(folder / "metrics.jsonl"):
    stage, rate = row["stage"], row.get("time/images_per_s")
    if rate and stage in done:
      total += (row["step"] - done[stage]) * batch_sizes[stage] / rate
      done[stage] = row["step"]
  return total or None


def differences(scores: Mapping[str, Any], others: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Any]:
  """Paired differences of one run: mIoU to other rows of its seed, AUPR_error to its own max probability."""
  out = {key: _minus(scores["mIoU"], other["mIoU"] if other else None) for key, other in others.items()}
  out["vs_own_network"] = _minus(scores["mIoU"], scores["network_mIoU"])
  free = scores["baselines"].get("max_probability", {}).get("AUPR_error")
  out["AUPR_vs_max_probability"] = _minus(scores["AUPR_error"], free)
  return out


def _minus(value: float | None, other: float | None) -> float | None:
  return None if value is None or other is None else value - other


def row_summary(
  workdir: pathlib.Path, name: str, runs: Mapping[int, dict[str, Any]], allowed: int
) -> dict[str, Any]:
  """A row: its budget, its runs by seed, mean and standard deviation of every number."""
  seed = next(iter(runs), None)
  spent = {} if seed is None else budget(str(workdir / f"seed{seed}" / name), allowed)
  numbers = [k for k, v in next(iter(runs.values()), {}).items() if not isinstance(v, dict | list | str)]
  values = {k: [run[k] for run in runs.values()] for k in numbers}
  return {
    "description": ROWS[name].description,
    **spent,
    "mean": {k: mean(v) for k, v in values.items()},
    "std": {k: deviation(v) for k, v in values.items()},
    "seeds": {str(s): run for s, run in runs.items()},
  }


def mean(values: Sequence[float | None]) -> float | None:
  """Mean; None where a value is undefined or there is none."""
  numbers = [value for value in values if value is not None]
  return statistics.fmean(numbers) if numbers and len(numbers) == len(values) else None


def deviation(values: Sequence[float | None]) -> float | None:
  """Standard deviation over seeds (n - 1); None of fewer than two, or where a value is undefined."""
  numbers = [value for value in values if value is not None]
  return statistics.stdev(numbers) if len(numbers) > 1 and len(numbers) == len(values) else None


@functools.cache
def budget(folder: str, allowed: int) -> dict[str, Any]:
  """Steps, image passes, parameters and multiply-adds of a row.

  Args:
    folder: the row's workdir.
    allowed: steps that a row may spend on top of the base.

  Returns:
    "steps" and "image_passes" of everything that was trained for the row, the base included; "extra_steps":
    those on top of one semantic network, and "over_budget": how many more they are than `allowed` (fewer: below
    zero); "parameters" and "multiply_adds" of the network that the row hands out, by group, at "image_size".
  """
  config, base = load_config(pathlib.Path(folder)), pathlib.Path(folder).parent / BASE
  steps, passes = spent(config)
  network, network_passes = spent(load_config(base))
  if str(base.resolve()) in (config.segmenter.init, config.segmenter.backbone_weights):
    steps, passes = steps + network, passes + network_passes
  image = read_results(pathlib.Path(folder))["speed"]["image_size"]
  groups = size(config, *image)["groups"]
  used = {group for stage in plan(config) for group in stage.groups}
  groups = {g: v for g, v in groups.items() if g.startswith("segmenter") or g in used}
  return {
    "steps": steps,
    "image_passes": passes,
    "extra_steps": steps - network,
    "over_budget": steps - network - allowed,
    "parameters": {g: v["parameters"] for g, v in groups.items()},
    "multiply_adds": {g: v["multiply_adds"] for g, v in groups.items()},
    "image_size": image,
  }


def spent(config: ConfigDict) -> tuple[int, int]:
  """Optimizer steps and image passes of a config's stages."""
  stages = plan(config)
  return sum(stage.steps for stage in stages), sum(stage.steps * stage.batch_size for stage in stages)
