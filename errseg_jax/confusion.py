"""`errseg confusion`: which classes the frozen network takes for which, and the groups that it confuses."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from errseg_jax import assemble, processes
from errseg_jax.data.class_groups import Groups
from errseg_jax.errors import UserError
from errseg_jax.inference.confusion import SCHEMA, count_confusion
from errseg_jax.inference.evaluator import make_evaluator
from errseg_jax.metrics.class_groups import inside_and_across, off_diagonal, row_normalised
from errseg_jax.metrics.segmentation import top_confusions
from errseg_jax.progress import progress_bar
from errseg_jax.report.html import write_atomically
from errseg_jax.report.plots import confusion_png
from errseg_jax.sharding import make_mesh, place
from errseg_jax.train.restore import resting_variables
from errseg_jax.train.workdir import check_writable

ROLES = {"train": "semantic", "choose": "choose"}
"""Splits that stand for a part of the training images, and its key in `Splits.sources`."""
TOP = 15  # pairs printed


def confusion(config: ConfigDict, workdir: pathlib.Path, split: str, as_json: bool = False) -> dict[str, Any]:
  """Counts a split, writes confusion/SPLIT.json and .png to the workdir, and prints pairs and groups.

  Args:
    config: of the workdir; its section `groups` may differ from what it was trained with.
    workdir: of a finished run.
    split: "train", the images that the semantic network was trained on; "choose", those that chose; or another
      split of the data set, whole.
    as_json: print the content of the file in place of tables.

  Returns:
    the content of SPLIT.json.

  Raises:
    UserError: the workdir, the split, a file of it or a setting is wrong.
  """
  check_writable(workdir)
  dataset = assemble.dataset(config)
  classes = dataset.info.classes
  find = assemble.group_finder(config, classes)
  source = assemble.splits(config).sources(dataset)[ROLES[split]] if split in ROLES else dataset.source(split)
  model, mesh = assemble.model(config, len(classes)), make_mesh(config.num_devices)
  variables = place(resting_variables(config, workdir, model, with_crf=False), mesh)
  with progress_bar(f"confusion {split}", len(source)) as show:
    evaluator = make_evaluator(config, mesh)
    counts = count_confusion(evaluator, evaluator.at_home(model), variables, source, show)
  groups = find(counts)
  start = {"schema": SCHEMA, "dataset": config.data.name, "split": split, "num_images": len(source)}
  content = start | summary(counts, classes, groups) | {"settings": json.loads(config.groups.to_json())}
  path = workdir / "confusion" / f"{split.replace('/', '_')}.json"
  if processes.first():
    write(path, content, groups)
    if as_json:
      print(json.dumps(content))
    else:
      print_summary(content, counts, groups)
      print(path)
  processes.wait()
  return content


def summary(counts: np.ndarray, classes: tuple[str, ...], groups: Groups) -> dict[str, Any]:
  """What the file says of a confusion matrix [C, C] and its groups."""
  inside, across = inside_and_across(counts, groups)
  pairs = top_confusions(counts, classes, TOP)
  return {
    "classes": list(classes),
    "pairs": [{"truth": t, "predicted": p, "percent": share} for t, p, share in pairs],
    "counts": counts.tolist(),
    "row_normalised": row_normalised(counts).tolist(),
    "groups": [
      {"classes": [classes[index] for index in group], "confusion": value}
      for group, value in zip(groups, inside, strict=True)
    ],
    "confusion_outside": across,
  }


def write(path: pathlib.Path, content: Mapping[str, Any], groups: Groups) -> None:
  """The JSON file, a line for each key, and the picture beside it."""
  lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()]
  try:
    path.parent.mkdir(exist_ok=True)
    confusion_png(path.with_suffix(".png"), np.array(content["counts"]), content["classes"], groups)
    write_atomically(path, "{\n" + ",\n".join(lines) + "\n}\n")
  except OSError as error:
    raise UserError(f"{path} cannot be written ({error.strerror})") from None


def print_summary(content: Mapping[str, Any], counts: np.ndarray, groups: Groups) -> None:
  """Tables of the most confused pairs and of the groups; what to change where the groups are of no use."""
  classes, console = content["classes"], Console(markup=False, emoji=False)
  index = {name: i for i, name in enumerate(classes)}
  table = Table(title=f"{content['dataset']} {content['split']}, {content['num_images']} images")
  for column in ("truth", "taken for", "% of its pixels", "pixels"):
    table.add_column(column, justify="right" if "pixels" in column else "left")
  for truth, predicted, share in top_confusions(counts, classes, TOP):
    table.add_row(truth, predicted, f"{share:.1f}", f"{counts[index[truth], index[predicted]]:,}")
  console.print(table)
  total = sum(group["confusion"] for group in content["groups"]) + content["confusion_outside"]
  table = Table(title="groups of confused classes")
  for column in ("group", "confusion inside", "% of all"):
    table.add_column(column, justify="left" if column == "group" else "right")
  rows = [(", ".join(group["classes"]), group["confusion"]) for group in content["groups"]]
  for name, value in [*rows, ("between groups and outside", content["confusion_outside"])]:
    table.add_row(name, f"{value:.2f}", f"{100 * value / total:.0f}" if total else "-")
  console.print(table)
  if advice := advise(counts, classes, groups):
    console.print(advice)


def advise(counts: np.ndarray, classes: list[str], groups: Groups) -> str:
  """A line where nothing was grouped, or one group holds most of the classes; else ""."""
  shares = off_diagonal(counts)
  similar = (shares + shares.T) / 2
  i, j = divmod(int(similar.argmax()), len(classes))
  if not groups:
    pair = f"{classes[i]} and {classes[j]} with {similar[i, j]:.3f}"
    return f"no two classes are confused enough; the most similar are {pair}: lower --config.groups.threshold"
  if 2 * len(groups[0]) > len(classes) > 3:
    return (
      f"one group holds {len(groups[0])} of {len(classes)} classes: raise --config.groups.threshold, or take "
      "--config.groups.method=hierarchical, which does not chain pairs"
    )
  return ""
