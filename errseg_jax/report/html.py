"""Writes report.html: one file that needs no network, with a gallery whose threshold moves."""

from __future__ import annotations

import base64
import io
import json
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import markupsafe
import numpy as np
from PIL import Image

from errseg_jax.report import plots, tables
from errseg_jax.report.gallery import GalleryItem
from errseg_jax.structs import DatasetInfo

_FOLDER = pathlib.Path(__file__).parent
REASONS = {
  "worst": "worst",
  "gained": "most gained",
  "lost": "most lost",
  "best": "best",
}
VIEWS = {
  "image": "image",
  "truth": "truth",
  "semantic": "network",
  "error": "P(error)",
  "mask": "flagged at t",
  "detail": "detail branch",
  "fused": "corrected at t",
}
STYLE = _FOLDER / "report.css"
"""Of all pages."""


def data_uri(array: np.ndarray, kind: str, **options) -> str:
  """An image, uint8 [H, W] or [H, W, 3], as a data URI; `kind` and `options` are Pillow's format and its options."""
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, kind, **options)
  return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()


def _maps(item: GalleryItem) -> dict[str, str]:
  """What the browser computes with: 8-bit maps, P(error) in steps of 1/255."""
  probability = np.clip(np.asarray(item.error_probability, np.float64), 0, 1)
  maps = {
    "truth": item.truth,
    "semantic": item.semantic,
    "detail": item.detail,
    "error": np.round(255 * probability),
  }
  return {k: data_uri(np.asarray(v, np.uint8), "png", optimize=True) for k, v in maps.items()}


def _figure(item: GalleryItem) -> dict:
  height, width = item.truth.shape
  return {
    "name": item.name,
    "image": data_uri(item.image, "jpeg", quality=88),
    "height": height,
    "width": width,
    "accuracy": tables.number(item.accuracy, 1),
    "fused_accuracy": tables.number(item.fused_accuracy, 1),
    "expected": None if item.expected is None else tables.number(item.expected, 1),
    "reasons": item.reasons,
    "maps": _maps(item),
  }


def _sections(results: Mapping, curves: Mapping, info: DatasetInfo) -> dict:
  """Tables and plots; None where the results do not hold what they need."""
  error, histograms = results.get("error") or {}, curves.get("histograms") or {}
  semantic, fused = curves.get("confusion_semantic"), curves.get("confusion_fused")
  detection = []
  if "error" in histograms:
    detection = [
      plots.precision_recall(histograms),
      plots.risk_coverage(histograms),
      plots.reliability(histograms["error"]),
    ]
  image_level, speed = results.get("image_level"), results.get("speed")
  points = curves.get("image_accuracy")
  foreseen = None
  if image_level and points is not None and len(points):
    foreseen = plots.image_accuracy(points, image_level)
  heat_map = pairs = None
  if semantic is not None and fused is not None:
    heat_map = plots.confusion_matrix(semantic, info.classes)
    pairs = tables.confusion_table(semantic, fused, info.classes)
  return {
    "segmentation": tables.segmentation_table(results),
    "classes": tables.class_table(results, info),
    "class_gains": plots.class_gains(results, info.classes) if results.get("fused") else None,
    "error_scores": tables.error_score_table(error) if error else None,
    "conventions": tables.convention_table(error),
    "thresholds": tables.threshold_table(results) if error.get("by_threshold") else None,
    "confusion": heat_map,
    "pairs": pairs,
    "groups": [[info.classes[index] for index in group] for group in curves.get("groups") or ()],
    "detection": detection,
    "image_level": tables.image_level_table(image_level) if image_level else None,
    "foreseen": foreseen,
    "speed": tables.speed_table(speed) if speed else None,
    "versions": tables.version_table(results["versions"]) if results.get("versions") else None,
  }


def write_atomically(path: pathlib.Path, text: str) -> None:
  """Writes UTF-8 text; a reader of `path` sees the old file or the whole new one."""
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
  try:
    with os.fdopen(handle, "w", encoding="utf-8") as file:
      file.write(text)
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
  except BaseException:
    os.unlink(temporary)
    raise


def render(template: str, folder: pathlib.Path = _FOLDER, **values: Any) -> str:
  """A page of a folder, which may show `style`, the one style of all pages; every value is escaped."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(folder),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  style = markupsafe.Markup(STYLE.read_text("utf-8"))
  return environment.get_template(template).render(style=style, **values)


def gallery_values(
  gallery: Sequence[GalleryItem], info: DatasetInfo, threshold: float | None
) -> dict[str, Any]:
  """What gallery.html.jinja and viewer.html.jinja need; the slider starts at `threshold`, or in the middle."""
  start, ramp = 0.5 if threshold is None else threshold, plots.error_ramp()
  return {
    "script": markupsafe.Markup((_FOLDER / "report.js").read_text("utf-8")),
    "info": info,
    "gallery": [_figure(item) for item in gallery],
    "reasons": {key: text for key, text in REASONS.items() if any(key in item.reasons for item in gallery)},
    "views": VIEWS,
    "threshold": start,
    "ramp_stops": ["#{:02x}{:02x}{:02x}".format(*colour) for colour in ramp[::17]],
    "data": {
      "classes": info.classes,
      "palette": info.palette,
      "ramp": ramp.tolist(),
      "threshold": start,
    },
  }


def write_report(
  path: str | os.PathLike,
  results: Mapping,
  history: Sequence[Mapping],
  curves: Mapping,
  gallery: Sequence[GalleryItem],
  info: DatasetInfo,
  config: Mapping,
  issues: Mapping | None = None,
) -> None:
  """Writes the report; a reader of `path` sees the old file or the whole new one.

  Args:
    path: the HTML file to write.
    results: the content of results.json; "control", scores like those of "semantic", is optional.
    history: rows of metrics.jsonl, {"stage", "step", name: value}.
    curves: "histograms": {score name: integer [2, 4096]}, "confusion_semantic" and
      "confusion_fused": integer [C, C], "image_accuracy": percent [N, 2], expected and real; "groups": confused
      classes.
    gallery: images to show, the worst first.
    info: class names and colours.
    config: the resolved config.
    issues: the content of label_issues.json, where there is one.
  """
  chosen = results.get("chosen") or {}
  html = render(
    "report.html.jinja",
    results=results,
    chosen=chosen,
    image_size=(results.get("speed") or {}).get("image_size"),
    hardware=results.get("hardware"),
    headline=tables.headline(results, curves.get("histograms") or {}),
    training=plots.training_curves(history),
    issues=tables.issue_table(issues) if issues else None,
    config=json.dumps(config, indent=2, default=str, ensure_ascii=False),
    **gallery_values(gallery, info, chosen.get("threshold")),
    **_sections(results, curves, info),
  )
  write_atomically(pathlib.Path(path), html)
