"""`errseg report A B ...`: several runs on the same images, side by side in one page."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from errseg_jax import assemble
from errseg_jax.compare import SCORES, Run, differing, notes, read_run, short_names, shortened
from errseg_jax.errors import UserError
from errseg_jax.inference.image_log import Extremes
from errseg_jax.inference.network import TrainedNetwork
from errseg_jax.report import plots
from errseg_jax.report.collect import check_show, extremes_of, histograms_of, load_both, read_arrays
from errseg_jax.report.gallery import GalleryItem, make_gallery, picked
from errseg_jax.report.html import gallery_values, render, write_atomically
from errseg_jax.report.tables import Cell, Table, number, with_difference
from errseg_jax.structs import DatasetInfo

LOWER_IS_BETTER = ("FPR95", "ECE", "accuracy_mae")
TURNED = {"good": "bad", "bad": "good"}


def compare(workdirs: Sequence[pathlib.Path], configs: Sequence[ConfigDict], show: int) -> pathlib.Path:
  """Writes comparison.html into the first workdir.

  Args:
    workdirs: two or more evaluated runs; differences are to the first.
    configs: theirs.
    show: images, chosen as for the report of the first run.

  Raises:
    UserError: one is not trained or not evaluated, or was scored on other images than the first.
  """
  check_show(show)
  runs = [read_run(workdir) for workdir in workdirs]
  if missing := [run.name for run in runs if not run.results]:
    raise UserError(f"{missing[0]} is not evaluated: run `errseg evaluate --workdir={missing[0]}` first")
  if others := [run.name for run in runs if run.images() != runs[0].images()]:
    raise UserError(
      f"{others[0]} was evaluated on other images than {runs[0].name}: evaluate both on one split of one data set"
    )
  names, arrays = short_names(runs), [read_arrays(workdir) for workdir in workdirs]
  networks = [load_both(workdir, config) for workdir, config in zip(workdirs, configs, strict=True)]
  info = networks[0].info
  gallery = side_by_side(
    dict(zip(names, networks, strict=True)), configs, runs[0], extremes_of(arrays[0]), show
  )
  histograms = {name: histograms_of(own)["error"] for name, own in zip(names, arrays, strict=True)}
  threshold = (runs[0].results.get("chosen") or {}).get("threshold")
  page = render(
    "comparison.html.jinja",
    title=f"{runs[0].results['dataset']} {runs[0].results['split']}, {runs[0].results['num_images']} images",
    runs=dict(zip(names, map(str, workdirs), strict=True)),
    headline=" ".join([headline(runs, names), *notes(runs)]),
    scores=score_table(runs, names),
    classes=class_table(runs, names, info),
    changed=config_table(runs, names),
    detection=[plots.precision_recall(histograms), plots.risk_coverage(histograms)],
    **gallery_values(gallery, info, threshold),
  )
  path = workdirs[0] / "comparison.html"
  write_atomically(path, page)
  return path


def side_by_side(
  networks: Mapping[str, TrainedNetwork],
  configs: Sequence[ConfigDict],
  first: Run,
  extremes: Extremes,
  show: int,
) -> list[GalleryItem]:
  """The images that the first run's report would show, each as every run sees it, run after run."""
  chosen = picked(extremes, show)
  columns = []
  for (name, network), config in zip(networks.items(), configs, strict=True):
    source = assemble.dataset(config).source(first.results["split"])
    items = make_gallery(network, source, chosen)
    columns.append([dataclasses.replace(item, name=f"{item.name}, {name}") for item in items])
  return [item for row in zip(*columns, strict=True) for item in row]


def headline(runs: Sequence[Run], names: Sequence[str]) -> str:
  """Whose corrected labels are best, and whose P(error) finds the errors best."""
  sentences = []
  for what, path in (("corrected labels", ("fused", "mIoU")), ("error maps", ("error", "AUPR_error"))):
    known = {n: v for n, run in zip(names, runs, strict=True) if (v := run.score(*path)) is not None}
    if len(known) < 2:
      continue
    best, second = sorted(known, key=lambda name: -known[name])[:2]
    lead, score = known[best] - known[second], f"{path[1]} {number(known[best])}"
    if lead < 0.005:
      sentences.append(f"No run has the best {what}: {best} and {second} have {score}.")
    else:
      sentences.append(f"The best {what} are those of {best}: {score}, {number(lead)} before {second}.")
  return " ".join(sentences)


def row(head: Cell, values: Sequence[float | None], higher_is_better: bool = True) -> tuple[Cell, ...]:
  """Scores of the runs, with their difference to the first."""
  others = [with_difference(value, values[0]) for value in values[1:]]
  if not higher_is_better:
    others = [dataclasses.replace(cell, kind=TURNED.get(cell.kind, cell.kind)) for cell in others]
  return (head, Cell(number(values[0])), *others)


def score_table(runs: Sequence[Run], names: Sequence[str]) -> Table:
  """Scores that all or some of them have."""
  scores = {name: (path[-1], [run.score(*path) for run in runs]) for name, path in SCORES.items()}
  rows = tuple(
    row(Cell(name), values, key not in LOWER_IS_BETTER)
    for name, (key, values) in scores.items()
    if any(value is not None for value in values)
  )
  return Table("Percent; behind it the difference to the first run.", ("", *names), rows)


def class_table(runs: Sequence[Run], names: Sequence[str], info: DatasetInfo) -> Table:
  """IoU of each class."""
  columns = [run.class_iou() for run in runs]
  swatches = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in info.palette]
  rows = tuple(
    row(Cell(name, swatch=swatch), [column.get(name) for column in columns])
    for name, swatch in zip(info.classes, swatches, strict=True)
  )
  return Table(
    "IoU of the corrected labels in percent, and the difference to the first run.", ("class", *names), rows
  )


def config_table(runs: Sequence[Run], names: Sequence[str]) -> Table:
  """Config keys that differ."""
  changed = differing(runs)
  rows = tuple((Cell(key), *(Cell(shortened(value)) for value in values)) for key, values in changed.items())
  return Table(
    "Config keys that differ." if rows else "The configs are the same.", ("key", *names), rows, tuple(names)
  )
