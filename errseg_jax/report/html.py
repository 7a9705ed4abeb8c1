"""Writes report.html: one file that needs no network, with a gallery whose threshold moves."""

from __future__ import annotations

import base64
import dataclasses
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
from errseg_jax.structs import DatasetInfo

_FOLDER = pathlib.Path(__file__).parent
STYLE = _FOLDER / "report.css"
"""Of all pages."""


@dataclasses.dataclass(frozen=True)
class GalleryItem:
  """One image of the gallery.

  Attributes:
    name: the image's name.
    image: uint8 [H, W, 3], RGB.
    truth: uint8 [H, W], train ids, 255 = ignore.
    semantic: uint8 [H, W], labels of the frozen network.
    detail: uint8 [H, W], labels of the detail branch.
    error_probability: float32 [H, W], 0..1.
    accuracy: percent of the labelled pixels that `semantic` has right, None without any.
    fused_accuracy: the same of the corrected labels, as chosen.
  """

  name: str
  image: np.ndarray
  truth: np.ndarray
  semantic: np.ndarray
  detail: np.ndarray
  error_probability: np.ndarray
  accuracy: float | None
  fused_accuracy: float | None


def data_uri(array: np.ndarray, kind: str, **options) -> str:
  """An image, uint8 [H, W] or [H, W, 3], as a data URI; `kind` and `options` are Pillow's format and its options."""
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, kind, **options)
  return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()


def _maps(item: GalleryItem) -> dict:
  """What the browser computes with: 8-bit maps, P(error) in steps of 1/255."""
  probability = np.clip(np.asarray(item.error_probability, np.float64), 0, 1)
  maps = {
    "truth": item.truth,
    "semantic": item.semantic,
    "detail": item.detail,
    "error": np.round(255 * probability),
  }
  uris = {k: data_uri(np.asarray(v, np.uint8), "png", optimize=True) for k, v in maps.items()}
  return {"name": item.name, **uris}


def _figure(item: GalleryItem) -> dict:
  height, width = item.truth.shape
  return {
    "name": item.name,
    "image": data_uri(item.image, "jpeg", quality=88),
    "height": height,
    "width": width,
    "accuracy": tables.number(item.accuracy, 1),
    "fused_accuracy": tables.number(item.fused_accuracy, 1),
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
    "error_scores": tables.error_score_table(error) if error else None,
    "conventions": tables.convention_table(error),
    "thresholds": tables.threshold_table(results) if error.get("by_threshold") else None,
    "confusion": heat_map,
    "pairs": pairs,
    "detection": detection,
    "image_level": tables.image_level_table(image_level) if image_level else None,
    "foreseen": foreseen,
    "speed": tables.speed_table(speed) if speed else None,
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


def write_report(
  path: str | os.PathLike,
  results: Mapping,
  history: Sequence[Mapping],
  curves: Mapping,
  gallery: Sequence[GalleryItem],
  info: DatasetInfo,
  config: Mapping,
) -> None:
  """Writes the report; a reader of `path` sees the old file or the whole new one.

  Args:
    path: the HTML file to write.
    results: the content of results.json; "control", scores like those of "semantic", is optional.
    history: rows of metrics.jsonl, {"stage", "step", name: value}.
    curves: "histograms": {score name: integer [2, 4096]}, "confusion_semantic" and
      "confusion_fused": integer [C, C], "image_accuracy": percent [N, 2], expected and real.
    gallery: images to show, the worst first.
    info: class names and colours.
    config: the resolved config.
  """
  chosen = results.get("chosen") or {}
  threshold = chosen.get("threshold")
  ramp = plots.error_ramp()
  html = render(
    "report.html.jinja",
    script=markupsafe.Markup((_FOLDER / "report.js").read_text("utf-8")),
    results=results,
    chosen=chosen,
    image_size=(results.get("speed") or {}).get("image_size"),
    hardware=results.get("hardware"),
    info=info,
    headline=tables.headline(results),
    training=plots.training_curves(history),
    gallery=[_figure(item) for item in gallery],
    threshold=0.5 if threshold is None else threshold,
    ramp_stops=["#{:02x}{:02x}{:02x}".format(*colour) for colour in ramp[::17]],
    data={
      "items": [_maps(item) for item in gallery],
      "classes": info.classes,
      "palette": info.palette,
      "ramp": ramp.tolist(),
      "threshold": 0.5 if threshold is None else threshold,
    },
    config=json.dumps(config, indent=2, default=str, ensure_ascii=False),
    **_sections(results, curves, info),
  )
  write_atomically(pathlib.Path(path), html)
