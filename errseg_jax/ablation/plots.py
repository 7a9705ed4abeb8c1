"""The plots of an ablation: SVG texts, in colours and marks that colour-blind readers tell apart."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from errseg_jax.ablation.rows import BASE, FAMILIES
from errseg_jax.metrics.curves import reliability_curve
from errseg_jax.report.plots import COLOURS, RC, STYLES

MARKS = "osD^vP"
FREE_OF = (BASE, "default")  # the rows whose networks are the base: the second has what is fitted, too
RELIABLE = {
  "default": {
    "max probability": "max_probability",
    "max probability, temperature": "temperature",
    "P_ep": "error_raw",
    "P_ep, calibrated": "error",
  },
  "paper": {"P_ep of paper": "error_raw"},
}
"""Row -> {what its line is called: a histogram of its evaluation.npz}."""


def plots(summary: Mapping[str, Any], workdir: pathlib.Path) -> dict[str, str]:
  """{file stem: SVG}, of what is finished.

  Args:
    summary: the content of ablation.json.
    workdir: of the ablation, whose evaluation.npz files the reliability comes from.
  """
  rows = {name: row for name, row in summary["rows"].items() if row["seeds"]}
  found = {"gains": gains(rows), "class_gains": class_gains(rows)}
  found |= {"error_scores": error_scores(rows), "threshold": threshold(rows)}
  series: dict[str, np.ndarray] = {}
  for name, scores in RELIABLE.items():
    if name in rows:
      series |= pooled_histograms(workdir, name, rows[name], scores)
  found["reliability"] = reliability(series)
  return {name: svg for name, svg in found.items() if svg}


def _svg(figure: Figure) -> str:
  buffer = io.StringIO()
  figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None}, facecolor="white")
  return buffer.getvalue()


def _points(axes: Axes, lines: Mapping[str, Mapping[str, float | None]], colour: str) -> None:
  """One line of points for each name, a mark for each seed, a bar at their mean."""
  seeds = sorted({seed for values in lines.values() for seed in values})
  for y, values in enumerate(lines.values()):
    known = [value for value in values.values() if value is not None]
    if known:
      axes.plot([np.mean(known)] * 2, [y - 0.3, y + 0.3], color="black", linewidth=1.5, zorder=3)
  for i, seed in enumerate(seeds):
    found = [(values[seed], y) for y, values in enumerate(lines.values()) if values.get(seed) is not None]
    x, heights = np.array(found, float).reshape(-1, 2).T
    axes.scatter(
      x, heights, s=22, marker=MARKS[i % len(MARKS)], color=colour, alpha=0.8, label=f"seed {seed}"
    )
  axes.set_yticks(range(len(lines)), lines)
  axes.set_ylim(len(lines) - 0.5, -0.5)  # the first line on top
  axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


@mpl.rc_context(RC)
def gains(rows: Mapping[str, Any]) -> str:
  """Paired differences of mIoU to the base, one point a seed; "" without rows beside the base."""
  lines = {
    name: {seed: run["vs_base"] for seed, run in row["seeds"].items()}
    for name, row in rows.items()
    if name != BASE
  }
  if not lines:
    return ""
  figure = Figure(figsize=(6.0, 1.0 + 0.28 * len(lines)))
  axes = figure.add_subplot()
  axes.axvline(0, color="#6b7280", linewidth=1)
  _points(axes, lines, COLOURS[0])
  axes.set_xlabel("mIoU minus the base of the same seed, points (bar: mean)")
  return _svg(figure)


@mpl.rc_context(RC)
def class_gains(rows: Mapping[str, Any]) -> str:
  """Gain of each class, a panel for each row of P1 and its control; "" without groups of confused classes.

  A class in a group of every seed has a filled dot before its name, in one of some seed an empty one.
  """
  shown = {
    name: row
    for name, row in rows.items()
    if name in FAMILIES["confusion"] and name != BASE
    if any(run["confused"] for run in row["seeds"].values())
  }
  if not shown:
    return ""
  runs = [run for row in shown.values() for run in row["seeds"].values()]
  classes = list(runs[0]["class_gain"])
  in_groups = {name: [name in run["confused"] for run in runs] for name in classes}
  labels = {n: f"{'●' if all(v) else '○' if any(v) else ''} {n}" for n, v in in_groups.items()}
  size = (1.0 + 2.0 * len(shown), 1.2 + 0.22 * len(classes))
  figure = Figure(figsize=size, layout="constrained")
  panels = np.atleast_1d(figure.subplots(1, len(shown), sharex=True, sharey=True))
  for axes, (title, row) in zip(panels, shown.items(), strict=True):
    axes.axvline(0, color="#6b7280", linewidth=1)
    by_seed = {seed: run["class_gain"] for seed, run in row["seeds"].items()}
    _points(axes, {labels[n]: {s: v.get(n) for s, v in by_seed.items()} for n in classes}, COLOURS[0])
    axes.get_legend().remove()
    axes.set_title(title, fontsize=8)
  figure.supxlabel("IoU minus the base of the same seed, points (bar: mean)", fontsize=9)
  return _svg(figure)


@mpl.rc_context(RC)
def error_scores(rows: Mapping[str, Any]) -> str:
  """AUPR_error of what comes without an error branch, and of each row's P_ep; "" where there is none."""
  lines: dict[str, dict[str, float | None]] = {}
  for name in FREE_OF:
    for seed, run in rows.get(name, {"seeds": {}})["seeds"].items():
      for key, scores in run["baselines"].items():
        lines.setdefault(key.replace("_", " "), {})[seed] = scores.get("AUPR_error")
  for name, row in rows.items():
    values = {seed: run["AUPR_error"] for seed, run in row["seeds"].items()}
    if any(value is not None for value in values.values()):
      lines[f"P_ep of {name}"] = values
  if not lines:
    return ""
  figure = Figure(figsize=(6.0, 1.0 + 0.28 * len(lines)))
  axes = figure.add_subplot()
  _points(axes, lines, COLOURS[1])
  axes.set_xlabel("AUPR_error, % (bar: mean)")
  return _svg(figure)


@mpl.rc_context(RC)
def threshold(rows: Mapping[str, Any]) -> str:
  """Error IoU, hard recall and mIoU against t, of `paper` and `default`; "" without a sweep."""
  figure = Figure(figsize=(9.6, 3.2), layout="constrained")
  panels = figure.subplots(1, 3)
  drawn = False
  for i, name in enumerate(n for n in ("paper", "default") if n in rows):
    for run in rows[name]["seeds"].values():
      steps = run["by_threshold"]
      style: dict[str, Any] = {
        "color": COLOURS[i],
        "linestyle": STYLES[i],
        "marker": MARKS[i],
        "markersize": 3,
      }
      for axes, key in zip(panels, ("IoU", "hard_recall", "mIoU"), strict=True):
        values = [np.nan if step[key] is None else step[key] for step in steps]
        axes.plot([step["t"] for step in steps], values, label=name, linewidth=1, **style)
      drawn = drawn or bool(steps)
  for axes, title in zip(panels, ("error IoU, %", "hard recall, %", "mIoU, %"), strict=True):
    axes.set_xlabel("t")
    axes.set_ylabel(title)
  handles, labels = panels[0].get_legend_handles_labels()
  by_name = dict(zip(labels, handles, strict=True))  # a line for each seed, an entry for each row
  panels[0].legend(list(by_name.values()), list(by_name))
  return _svg(figure) if drawn else ""


def pooled_histograms(
  workdir: pathlib.Path, name: str, row: Mapping[str, Any], scores: Mapping[str, str]
) -> dict[str, np.ndarray]:
  """Integer [2, 4096] of each score that the row has, summed over its seeds.

  Args:
    workdir: of the ablation.
    name: of the row.
    row: its summary.
    scores: {title: name of the score}.
  """
  total: dict[str, np.ndarray] = {}
  for seed in row["seeds"]:
    with np.load(workdir / f"seed{seed}" / name / "evaluation.npz", allow_pickle=False) as file:
      for title, score in scores.items():
        if f"histogram.{score}" in file.files:
          total[title] = total.get(title, 0) + file[f"histogram.{score}"].astype(np.int64)
  return total


@mpl.rc_context(RC)
def reliability(histograms: Mapping[str, np.ndarray]) -> str:
  """Predicted probability of error against its frequency, before and after temperature and calibration; "" of none.

  Args:
    histograms: {title: integer [2, 4096]}.
  """
  if not histograms:
    return ""
  figure = Figure(figsize=(4.8, 4.0))
  axes = figure.add_subplot()
  axes.plot([0, 100], [0, 100], color="#6b7280", linewidth=1, linestyle=":")
  for i, (title, hist) in enumerate(histograms.items()):
    predicted, observed, _ = reliability_curve(hist)
    style: dict[str, Any] = {"color": COLOURS[i], "linestyle": STYLES[i % len(STYLES)], "marker": MARKS[i]}
    axes.plot(predicted, observed, markersize=4, label=title, **style)
  axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="P(error), %", ylabel="pixels that are wrong, %")
  axes.legend()
  return _svg(figure)
