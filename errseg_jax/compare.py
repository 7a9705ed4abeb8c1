"""`errseg compare`: which config keys differ between runs, and their scores side by side."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from errseg_jax.errors import UserError
from errseg_jax.evaluate import read_results
from errseg_jax.train.workdir import flat, read_config

SCORES = {
  "mIoU, network": ("semantic", "mIoU"),
  "mIoU, detail branch": ("detail", "mIoU"),
  "mIoU, corrected": ("fused", "mIoU"),
  "aAcc, network": ("semantic", "aAcc"),
  "aAcc, corrected": ("fused", "aAcc"),
  "AUPR_error of P_ep": ("error", "AUPR_error"),
  "AUROC of P_ep": ("error", "AUROC"),
  "FPR95 of P_ep": ("error", "FPR95"),
  "ECE of P_ep": ("error", "ECE"),
  "expected accuracy of an image, off by": ("image_level", "accuracy_mae"),
}
"""Name -> its place in results.json; all in percent."""
LONGEST = 48  # characters of a config value that are shown


@dataclasses.dataclass(frozen=True)
class Run:
  """A workdir as it is compared.

  Attributes:
    name: the workdir as it was named.
    config: its resolved config, {"a.b": value}.
    results: its results.json; empty where it was not evaluated.
  """

  name: str
  config: Mapping[str, Any]
  results: Mapping[str, Any]

  def score(self, *path: str) -> float | None:
    """A number of results.json; None where it has none."""
    value: Any = self.results
    for key in path:
      value = value.get(key) if isinstance(value, dict) else None
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None

  def class_iou(self) -> dict[str, float | None]:
    """IoU by class, percent: of the corrected labels; of the network's own, in a run without."""
    system = "fused" if "fused" in self.results else "semantic"
    own = self.results.get(system)
    names = own.get("IoU", {}) if isinstance(own, dict) else {}
    return {name: self.score(system, "IoU", name) for name in names}

  def images(self) -> tuple:
    """What tells the images that it was scored on from others: data set, split, number, classes, settings of data."""
    of_results = [self.results.get(key) for key in ("dataset", "split", "num_images", "classes")]
    of_config = {k: v for k, v in self.config.items() if k.startswith("data.") and k != "data.root"}
    return (*of_results, of_config)


def read_run(workdir: pathlib.Path) -> Run:
  """A workdir's config, and its results where it has some.

  Raises:
    UserError: it is no workdir, or a file is damaged.
  """
  config = flat(read_config(workdir))
  results = read_results(workdir) if (workdir / "results.json").exists() else {}
  if not isinstance(results, dict):
    raise UserError(f"{workdir / 'results.json'} is damaged: run `errseg evaluate --workdir={workdir}` again")
  return Run(str(workdir), config, results)


def differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
  """Config keys that are not the same in all runs -> the value of each; None where a run has no such key."""
  keys = sorted({key for run in runs for key in run.config})
  values = {key: [run.config.get(key) for run in runs] for key in keys}
  return {key: found for key, found in values.items() if any(value != found[0] for value in found[1:])}


def notes(runs: Sequence[Run]) -> list[str]:
  """What a reader of the scores must know, a line each."""
  lines = []
  if missing := [run.name for run in runs if not run.results]:
    lines.append(f"not evaluated, `errseg evaluate --workdir=W` scores it: {', '.join(missing)}")
  scored = [run for run in runs if run.results]
  if others := [run.name for run in scored[1:] if run.images() != scored[0].images()]:
    lines.append(
      f"scores are of different images, so differences mean little: {', '.join(others)} against {scored[0].name}"
    )
  return lines


def difference(value: float | None, reference: float | None) -> float | None:
  """value - reference, where both are known."""
  return None if value is None or reference is None else value - reference


def plain(value: Any) -> Any:
  """Of JSON's own types: numbers that are not finite, as words."""
  if isinstance(value, list):
    return [plain(part) for part in value]
  return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def as_json(runs: Sequence[Run], classes: bool) -> dict[str, Any]:
  """All of it: config keys that differ with a value per run, and scores and differences to the first, by run."""
  first = runs[0]
  rows = []
  for run in runs:
    scores = {name: run.score(*path) for name, path in SCORES.items()}
    row: dict[str, Any] = {
      "workdir": run.name,
      "evaluated": bool(run.results),
      **{key: plain(run.results.get(key)) for key in ("dataset", "split", "num_images")},
      "scores": scores,
      "to_first": {name: difference(scores[name], first.score(*path)) for name, path in SCORES.items()},
    }
    rows.append(row | ({"IoU": run.class_iou()} if classes else {}))
  plain_config = {key: plain(values) for key, values in differing(runs).items()}
  return {"runs": rows, "config": plain_config, "notes": notes(runs)}


def short_names(runs: Sequence[Run]) -> list[str]:
  """The folders' own names where these tell the runs apart, else the whole paths."""
  names = [pathlib.Path(run.name).name for run in runs]
  return names if len(set(names)) == len(names) and all(names) else [run.name for run in runs]


def shortened(value: Any) -> str:
  """A config value on one line, cut in its middle where it is long; a dash for none."""
  text = "-" if value is None else value if isinstance(value, str) else json.dumps(value)
  if len(text) <= LONGEST:
    return text or '""'
  half = LONGEST // 2 - 1
  return f"{text[:half]} … {text[-half:]}"


def with_difference(value: float | None, reference: float | None, is_first: bool) -> str:
  """A score and how far it is from the first run's; a dash where there is none."""
  own = "-" if value is None else f"{value:.2f}"
  change = difference(value, reference)
  return own if is_first or change is None else f"{own} ({change:+.2f})"


def make_table(title: str, names: Sequence[str], rows: Mapping[str, Sequence[str]], justify: Any) -> Table:
  """A column for each run. What comes from files is text, not markup."""
  table = Table(title=title)
  table.add_column("", overflow="fold")
  for name in names:
    table.add_column(Text(name), justify=justify, overflow="fold")
  for head, cells in rows.items():
    table.add_row(Text(head), *(Text(cell) for cell in cells))
  return table


def score_rows(columns: Sequence[Mapping[str, float | None]]) -> dict[str, list[str]]:
  """{score: a cell for each run} of {score: value} of each; in the order in which the runs name them."""
  heads = dict.fromkeys(head for column in columns for head in column)
  return {
    head: [with_difference(c.get(head), columns[0].get(head), i == 0) for i, c in enumerate(columns)]
    for head in heads
  }


def print_tables(runs: Sequence[Run], classes: bool) -> None:
  """Config keys that differ, scores, with `classes` the IoU of each, and the notes."""
  console, names = Console(), short_names(runs)
  changed = {key: [shortened(value) for value in values] for key, values in differing(runs).items()}
  if changed:
    console.print(make_table("config keys that differ", names, changed, "left"))
  else:
    console.print("the configs are the same")
  rows = score_rows([{name: run.score(*path) for name, path in SCORES.items()} for run in runs])
  for head, key in (("images", "num_images"), ("split", "split"), ("data set", "dataset")):
    rows[head] = [shortened(run.results.get(key)) for run in runs]
  console.print(make_table("scores, percent (difference to the first)", names, rows, "right"))
  if classes:
    rows = score_rows([run.class_iou() for run in runs])
    console.print(make_table("IoU of each class, percent", names, rows, "right"))
  for line in notes(runs):
    console.print(Text(f"note: {line}"), soft_wrap=True)


def compare(workdirs: Sequence[pathlib.Path], classes: bool = False, as_object: bool = False) -> None:
  """Prints what differs between runs.

  Args:
    workdirs: two or more; differences of scores are to the first.
    classes: the IoU of each class, too.
    as_object: one JSON object in place of tables.

  Raises:
    UserError: fewer than two, one that is no workdir, or a damaged file.
  """
  if len(workdirs) < 2:
    raise UserError("errseg compare wants two workdirs or more: errseg compare W1 W2")
  runs = [read_run(workdir) for workdir in workdirs]
  if as_object:
    print(json.dumps(as_json(runs, classes), indent=1, allow_nan=False))
  else:
    print_tables(runs, classes)
