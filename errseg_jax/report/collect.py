"""`errseg report`: gathers what a workdir holds and writes report.html."""

from __future__ import annotations

import json
import pathlib
import zipfile

import numpy as np
from ml_collections import ConfigDict

from errseg_jax import assemble
from errseg_jax.data.scores import joined
from errseg_jax.errors import UserError
from errseg_jax.evaluate import read_results
from errseg_jax.inference.network import TrainedNetwork
from errseg_jax.report.html import GalleryItem, write_report
from errseg_jax.structs import IGNORE
from errseg_jax.train.restore import load
from errseg_jax.train.writers import read_metrics


def report(config: ConfigDict, workdir: pathlib.Path) -> pathlib.Path:
  """Writes WORKDIR/report.html.

  Raises:
    UserError: the workdir is not trained or not evaluated.
  """
  results = read_results(workdir)
  try:
    with np.load(workdir / "evaluation.npz", allow_pickle=False) as file:
      arrays = {k: file[k] for k in file.files}
  except (OSError, ValueError, zipfile.BadZipFile):
    raise UserError(
      f"{workdir}/evaluation.npz is missing or damaged: run `errseg evaluate --workdir={workdir}` first"
    ) from None
  histograms = {k.removeprefix("histogram."): v for k, v in arrays.items() if k.startswith("histogram.")}
  histograms.pop("error_raw", None)
  curves = {
    "histograms": histograms,
    "confusion_semantic": arrays["confusion.semantic"],
    "image_accuracy": arrays.get("images.accuracy"),
    "confusion_fused": arrays.get("confusion.fused", arrays["confusion.semantic"]),
  }
  network = load(workdir, config)
  if missing := {"error", "detail"} - {*network.branches}:
    raise UserError(
      f"{workdir}: this run trained no {' and no '.join(sorted(missing))} branch (config.order); a report is about it"
    )
  source = assemble.dataset(config).source(results["split"])
  gallery = make_gallery(network, source, [str(n) for n in arrays["worst.names"]])
  path = workdir / "report.html"
  history = read_metrics(workdir / "metrics.jsonl")
  write_report(path, results, history, curves, gallery, network.info, json.loads(config.to_json()))
  return path


def make_gallery(network: TrainedNetwork, source, names: list[str]) -> list[GalleryItem]:
  """The named images with their predictions, in that order."""
  place = {name: i for i, name in enumerate(source.names)}
  items = []
  for name in names:
    if name not in place:
      raise UserError(f"image {name} of the evaluation is not in the data set any more: evaluate again")
    sample = source[place[name]]
    out = network.predict(joined(sample)["image"])
    truth = sample["label"]
    accuracy, fused = (_accuracy(m, truth) for m in (out.semantic_labels, out.labels))
    items.append(
      GalleryItem(
        name,
        sample["image"],
        truth,
        np.asarray(out.semantic_labels),
        np.asarray(out.detail_labels),
        np.asarray(out.error_probability),
        accuracy,
        fused,
      )
    )
  return items


def _accuracy(labels, truth: np.ndarray) -> float | None:
  valid = truth != IGNORE
  return float(100 * (labels == truth)[valid].mean()) if valid.any() else None
