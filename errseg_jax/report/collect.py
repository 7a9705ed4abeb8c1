"""`errseg report`: gathers what a workdir holds and writes report.html."""

from __future__ import annotations

import json
import pathlib
import zipfile

import numpy as np
from ml_collections import ConfigDict

from errseg_jax import assemble
from errseg_jax.errors import UserError
from errseg_jax.evaluate import read_results
from errseg_jax.inference.image_log import Extremes
from errseg_jax.inference.network import TrainedNetwork
from errseg_jax.report.gallery import make_gallery, picked
from errseg_jax.report.html import write_report
from errseg_jax.train.restore import load
from errseg_jax.train.writers import read_metrics

MOST_IMAGES = 1000


def report(config: ConfigDict, workdir: pathlib.Path, show: int) -> pathlib.Path:
  """Writes WORKDIR/report.html.

  Args:
    config: of the workdir.
    workdir: of a finished, evaluated run.
    show: number of images in it, 1..MOST_IMAGES; half of them the worst, the others those that gained, lost and went
      best.

  Raises:
    UserError: the workdir is not trained or not evaluated, or a file of it is damaged.
  """
  check_show(show)
  results, arrays = read_results(workdir), read_arrays(workdir)
  network = load_both(workdir, config)
  curves = {
    "histograms": histograms_of(arrays),
    "confusion_semantic": arrays["confusion.semantic"],
    "image_accuracy": arrays.get("images.accuracy"),
    "confusion_fused": arrays.get("confusion.fused", arrays["confusion.semantic"]),
    "groups": assemble.group_finder(config, network.info.classes)(arrays["confusion.semantic"]),
  }
  source = assemble.dataset(config).source(results["split"])
  gallery = make_gallery(network, source, picked(extremes_of(arrays), show))
  path = workdir / "report.html"
  history = read_metrics(workdir / "metrics.jsonl")
  shown = json.loads(config.to_json())
  write_report(path, results, history, curves, gallery, network.info, shown, read_issues(workdir))
  return path


def check_show(show: int) -> None:
  """Raises UserError where it is no number of images to show."""
  if not 1 <= show <= MOST_IMAGES:
    raise UserError(f"--show={show} must be 1..{MOST_IMAGES}")


def load_both(workdir: pathlib.Path, config: ConfigDict) -> TrainedNetwork:
  """The network of a run that trained both branches.

  Raises:
    UserError: it is not trained, or trained but one.
  """
  network = load(workdir, config)
  if missing := {"error", "detail"} - {*network.branches}:
    raise UserError(
      f"{workdir}: this run trained no {' and no '.join(sorted(missing))} branch (config.order); a report is about it"
    )
  return network


def histograms_of(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Error score -> integer [2, 4096] of `read_arrays`; of P(error) the calibrated one, first."""
  found = {k.removeprefix("histogram."): v for k, v in arrays.items() if k.startswith("histogram.")}
  found.pop("error_raw", None)
  return {name: found[name] for name in sorted(found, key=lambda name: name != "error")}


def extremes_of(arrays: dict[str, np.ndarray]) -> Extremes:
  """The images worth a look, of `read_arrays`."""
  return Extremes.of_arrays({k.removeprefix("extremes."): v for k, v in arrays.items()})


def read_arrays(workdir: pathlib.Path) -> dict[str, np.ndarray]:
  """evaluation.npz, with "." between the parts of its names.

  Raises:
    UserError: it is missing, damaged or of another version.
  """
  path = workdir / "evaluation.npz"
  try:
    with np.load(path, allow_pickle=False) as file:
      arrays = {k: file[k] for k in file.files}
  except (OSError, ValueError, zipfile.BadZipFile):
    raise UserError(
      f"{path} is missing or damaged: run `errseg evaluate --workdir={workdir}` first"
    ) from None
  if "extremes.names.worst" not in arrays or "confusion.semantic" not in arrays:
    raise UserError(f"{path} is of another version: run `errseg evaluate --workdir={workdir}` again")
  return arrays


def read_issues(workdir: pathlib.Path) -> dict | None:
  """What `errseg label-issues` found, where it has been run with its default folder.

  Raises:
    UserError: the file is damaged.
  """
  path = workdir / "label_issues" / "label_issues.json"
  try:
    found = json.loads(path.read_text("utf-8"))
  except FileNotFoundError:
    return None
  except ValueError:
    found = None
  if not isinstance(found, dict) or not isinstance(found.get("issues"), list):
    raise UserError(f"{path} is damaged: run `errseg label-issues --workdir={workdir}` again, or remove it")
  return found
