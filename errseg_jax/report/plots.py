"""The plots of the report, as SVG data URIs with a text that says what they show.

Colours are those of Okabe & Ito, told apart by colour-blind readers, with line styles as well.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from errseg_jax.metrics import curves
from errseg_jax.metrics.segmentation import top_confusions
from errseg_jax.report.tables import ERROR_SCORES, number

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", "--", "-.", ":")
MAX_POINTS = 400
FEW_POINTS = 20  # of a curve, up to which each is marked
# Names of classes and metrics are text, never mathematics: a "$" in one must not be parsed.
RC: dict[Any, Any] = {
  "text.parse_math": False,
  "svg.hashsalt": "errseg",
  "font.size": 9,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "grid.color": "#e3e6ea",
  "axes.axisbelow": True,
  "legend.frameon": False,
}


@dataclasses.dataclass(frozen=True)
class Plot:
  """A picture for an <img>: its data URI, its caption, and its text alternative."""

  uri: str
  caption: str
  alt: str


def error_ramp() -> np.ndarray:
  """A ramp of one hue from light (0) to dark (1), even in OKLab lightness: uint8 [256, 3].

  Source: Ottosson 2020, "A perceptual color space for image processing".
  """
  t = np.linspace(0, 1, 256)
  lightness = 0.98 - 0.68 * t
  chroma, hue = 0.15 * np.sin(np.pi * t) + 0.08 * t, np.deg2rad(35)
  lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], -1)
  to_lms = np.array(
    [
      [1, 0.3963377774, 0.2158037573],
      [1, -0.1055613458, -0.0638541728],
      [1, -0.0894841775, -1.291485548],
    ]
  )
  to_rgb = np.array(
    [
      [4.0767416621, -3.3077115913, 0.2309699292],
      [-1.2684380046, 2.6097574011, -0.3413193965],
      [-0.0041960863, -0.7034186147, 1.707614701],
    ]
  )
  linear = np.clip((lab @ to_lms.T) ** 3 @ to_rgb.T, 0, 1)
  rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
  return np.round(255 * rgb).astype(np.uint8)


def _svg(figure: Figure) -> str:
  buffer = io.BytesIO()
  figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
  return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _axes(xlabel: str, ylabel: str, size: tuple[float, float] = (4.8, 3.6)) -> tuple[Figure, Axes]:
  figure = Figure(figsize=size)
  axes = figure.add_subplot()
  axes.set_xlabel(xlabel)
  axes.set_ylabel(ylabel)
  return figure, axes


def _style(index: int) -> dict:
  return {"color": COLOURS[index % len(COLOURS)], "linestyle": STYLES[index % len(STYLES)]}


def _label(name: str) -> str:
  return ERROR_SCORES.get(name, name)


@mpl.rc_context(RC)
def precision_recall(histograms: Mapping[str, np.ndarray]) -> Plot:
  """Precision against recall of flagging wrong pixels, one line per score."""
  figure, axes = _axes("recall of wrong pixels, %", "precision, %")
  for i, (name, hist) in enumerate(histograms.items()):
    recall, precision, _ = curves.precision_recall_curve(hist)
    axes.plot(recall, precision, label=_label(name), **_style(i))
  axes.set(xlim=(0, 100), ylim=(0, 100))
  axes.legend(fontsize=7)
  caption = "Precision and recall of finding wrong pixels: higher is better."
  names = ", ".join(map(_label, histograms))
  return Plot(_svg(figure), caption, f"Precision-recall curves of {names}. {caption}")


@mpl.rc_context(RC)
def risk_coverage(histograms: Mapping[str, np.ndarray]) -> Plot:
  """Error rate of the most confident pixels against how many of them are kept."""
  figure, axes = _axes("pixels kept, most confident first, %", "wrong among them, %")
  for i, (name, hist) in enumerate(histograms.items()):
    axes.plot(*curves.risk_coverage_curve(hist), label=_label(name), **_style(i))
  axes.set(xlim=(0, 100), ylim=(0, None))
  axes.legend(fontsize=7)
  caption = "Error rate of the pixels kept: lower is better."
  names = ", ".join(map(_label, histograms))
  return Plot(_svg(figure), caption, f"Risk-coverage curves of {names}. {caption}")


@mpl.rc_context(RC)
def reliability(hist: np.ndarray) -> Plot:
  """Predicted probability of error against its frequency; dots grow with the share of pixels."""
  figure, axes = _axes("P(error), %", "pixels that are wrong, %")
  predicted, observed, share = curves.reliability_curve(hist)
  axes.plot([0, 100], [0, 100], color="#6b7280", linewidth=1, linestyle="--")
  axes.plot(predicted, observed, color=COLOURS[0], linewidth=1)
  axes.scatter(predicted, observed, s=12 + 6 * share, color=COLOURS[0], alpha=0.8)
  axes.set(xlim=(0, 100), ylim=(0, 100))
  caption = "Reliability of P(error): on the dashed line it is the frequency of errors."
  points = "; ".join(f"{p:.0f} % → {o:.0f} %" for p, o in zip(predicted, observed, strict=True))
  return Plot(_svg(figure), caption, f"Reliability diagram, predicted → observed: {points}.")


@mpl.rc_context(RC)
def image_accuracy(points: np.ndarray, scores: Mapping[str, float | None]) -> Plot:
  """One dot per image: the accuracy that P(error) lets expect against the real one.

  Args:
    points: percent [N, 2].
    scores: "accuracy_mae" and "accuracy_corr" of all images.
  """
  figure, axes = _axes("expected accuracy, %", "real accuracy, %")
  low = float(np.floor(points.min()))
  axes.plot([low, 100], [low, 100], color="#6b7280", linewidth=1, linestyle="--")
  axes.scatter(points[:, 0], points[:, 1], s=9, color=COLOURS[0], alpha=0.6, linewidths=0)
  error, correlation = number(scores.get("accuracy_mae")), number(scores.get("accuracy_corr"))
  caption = (
    "Accuracy of each image, foreseen without its truth: on the dashed line it came as expected. "
    f"Mean absolute error {error} points, correlation {correlation}."
  )
  return Plot(_svg(figure), caption, f"Scatter plot of {len(points)} images. {caption}")


@mpl.rc_context(RC)
def class_gains(results: Mapping[str, Any], classes: Sequence[str]) -> Plot | None:
  """A bar for each class: by how much correction changes its IoU; None where it changes none.

  Args:
    results: the content of results.json, with "fused".
    classes: their names.
  """
  before, after = results["semantic"]["IoU"], results["fused"]["IoU"]
  known = [name for name in classes if before.get(name) is not None and after.get(name) is not None]
  gains = {name: after[name] - before[name] for name in sorted(known, key=lambda n: after[n] - before[n])}
  if not any(abs(gain) >= 0.005 for gain in gains.values()):
    return None
  figure, axes = _axes("change of the IoU by correction, points", "", (6.4, 1.0 + 0.2 * len(gains)))
  colours = [COLOURS[0] if gain >= 0 else COLOURS[1] for gain in gains.values()]
  axes.barh(range(len(gains)), list(gains.values()), color=colours, height=0.7)
  axes.set_yticks(range(len(gains)), list(gains), fontsize=8 if len(gains) < 60 else 5)
  axes.set_ylim(-0.7, len(gains) - 0.3)
  axes.axvline(0, color="#1b1f24", linewidth=0.8)
  axes.grid(axis="y", visible=False)
  told = ", ".join(f"{name} {gain:+.1f}" for name, gain in reversed(gains.items()))
  return Plot(_svg(figure), "IoU of each class, corrected less network's.", f"Bars, change of IoU: {told}.")


def confusion_figure(
  confusion: np.ndarray, classes: Sequence[str], groups: Sequence[Sequence[int]] = ()
) -> Figure:
  """Heat map of the row-normalised confusion matrix, readable up to 255 classes.

  Args:
    confusion: [C, C], rows are truth.
    classes: the C names.
    groups: disjoint classes that come first, side by side, each group framed.
  """
  grouped = [index for group in groups for index in group]
  order = [*grouped, *(index for index in range(len(classes)) if index not in grouped)]
  confusion = np.asarray(confusion, np.float64)[np.ix_(order, order)]
  share = 100 * confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
  many = len(classes) > 40
  side = max(3.6, 2.0 + (0.13 if many else 0.3) * len(classes))
  figure, axes = _axes("predicted", "truth", (side + 1, side))
  axes.grid(False)
  # By the square root: what matters are the few percent beside a diagonal of nearly 100.
  image = axes.imshow(share, cmap=ListedColormap(error_ramp() / 255), norm=PowerNorm(0.5, 0, 100))
  ticks, names = np.arange(len(classes)), [classes[index] for index in order]
  axes.set_xticks(ticks, names, rotation=90, fontsize=6 if many else 8)
  axes.set_yticks(ticks, names, fontsize=6 if many else 8)
  if not many:
    for (i, j), value in np.ndenumerate(share):
      if value >= 0.5:
        colour = "white" if value > 20 else "black"
        axes.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=7, color=colour)
  start = 0
  for group in groups:
    corner, size = (start - 0.5, start - 0.5), len(group)
    axes.add_patch(
      Rectangle(corner, size, size, fill=False, edgecolor=COLOURS[0], linewidth=2, clip_on=False)
    )
    start += size
  figure.colorbar(image, ax=axes, label="% of the true class", shrink=0.8, ticks=(0, 1, 5, 10, 25, 50, 100))
  return figure


@mpl.rc_context(RC)
def confusion_matrix(confusion: np.ndarray, classes: Sequence[str]) -> Plot:
  """Heat map of the row-normalised confusion matrix, rows are truth."""
  caption = "Confusion matrix of the network: percent of each true class (row)."
  figure = confusion_figure(confusion, classes)
  return Plot(_svg(figure), caption, f"{caption} The largest cells are in the table beside it.")


@mpl.rc_context(RC)
def confusion_png(
  path: pathlib.Path, confusion: np.ndarray, classes: Sequence[str], groups: Sequence[Sequence[int]]
) -> None:
  """Writes `confusion_figure` as a PNG, whole or not at all."""
  part = path.with_suffix(".tmp")
  figure = confusion_figure(confusion, classes, groups)
  pairs = top_confusions(confusion, classes, 12)
  lines = [f"{share:5.1f} %  {truth} → {predicted}" for truth, predicted, share in pairs]
  title = "most confused (of the truth's pixels)"
  figure.text(0.93, 0.85, "\n".join([title, "", *lines]), va="top", fontsize=8)
  figure.savefig(part, format="png", dpi=150, bbox_inches="tight", facecolor="white")
  os.replace(part, path)


def _series(history: Sequence[Mapping], prefix: str) -> dict[str, list[tuple[float, float]]]:
  series: dict[str, list[tuple[float, float]]] = {}
  for row in history:
    for name, value in row.items():
      if name.startswith(prefix) and isinstance(value, int | float):
        series.setdefault(name, []).append((row["step"], value))
  return series


def _means(points: list[tuple[float, float]]) -> np.ndarray:
  """Means of consecutive runs of points, so that a long training stays a small picture: [K, 2]."""
  parts = np.array_split(np.array(points, np.float64), min(len(points), MAX_POINTS))
  return np.array([part.mean(0) for part in parts])


def _stage_plot(stage: str, kind: str, series: Mapping[str, list[tuple[float, float]]]) -> Plot:
  figure, axes = _axes("step", kind, (4.8, 3.0))
  for i, (name, points) in enumerate(series.items()):
    size = 3 if len(points) <= FEW_POINTS else 0
    axes.plot(*_means(points).T, label=name, linewidth=1.2, marker="o", markersize=size, **_style(i))
  axes.legend(fontsize=8)
  ends = "; ".join(f"{n} from {p[0][1]:.3g} to {p[-1][1]:.3g}" for n, p in series.items())
  return Plot(_svg(figure), f"Stage {stage}: {kind}.", f"Curves of stage {stage}: {ends}.")


@mpl.rc_context(RC)
def training_curves(history: Sequence[Mapping]) -> list[Plot]:
  """For each stage its losses and its scores on the images that choose.

  Args:
    history: rows {"stage", "step", name: value}, as metrics.jsonl holds them.

  Returns:
    up to two plots per stage, in the order in which the stages ran; none of what was scored once.
  """
  plots = []
  for stage in dict.fromkeys(row["stage"] for row in history):
    rows = [row for row in history if row["stage"] == stage]
    for kind, prefix in (("training loss", "train/loss"), ("score while training", "choose/")):
      series = _series(rows, prefix)
      if any(len(points) > 1 for points in series.values()):
        plots.append(_stage_plot(stage, kind, series))
  return plots
