"""`errseg data check`: tables of every split, and all that is wrong with it."""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from errseg_jax import assemble
from errseg_jax.data.checks import CheckReport, check_split, render_table
from errseg_jax.data.datasets import Dataset, Source
from errseg_jax.data.duplicates import duplicates
from errseg_jax.data.faults import FAULTS, Finding
from errseg_jax.errors import UserError
from errseg_jax.progress import progress_bar


def check(config: ConfigDict, split: str, as_json: bool = False) -> int:
  """Checks one split, or all that the config names.

  Returns:
    0 if training would not end at anything, 2 otherwise; every such problem is one line on stderr.
  """
  dataset, reports, sources = surveyed(config, split)
  findings = [finding for report in reports for finding in report.findings]
  findings += duplicates({report.split: report.fingerprints for report in reports})
  if not split and not any(finding.fatal for finding in findings):
    findings += unfit(config, sources)
  if as_json:
    print(json.dumps(as_object(dataset, reports, findings), indent=1))
  else:
    show(dataset, reports, findings)
  return 2 if any(finding.fatal for finding in findings) else 0


def surveyed(config: ConfigDict, split: str) -> tuple[Dataset, list[CheckReport], dict[str, Source]]:
  """The data set, and the reports and samples of one split, or of all that the config names.

  Raises:
    UserError: there is no such data set or split.
  """
  dataset = assemble.dataset(config)
  names = (split,) if split else assemble.splits(config).named
  reports, sources = [], {}
  for name in names:
    scanned = dataset.scan(name)
    sources[name] = scanned[0]
    with progress_bar(f"read {name}", len(scanned[0])) as update:
      threads = os.cpu_count() or 1
      reports.append(check_split(dataset, name, lambda done, total: update(done), threads, scanned))
  return dataset, reports, sources


def unfit(config: ConfigDict, sources: dict[str, Source]) -> list[Finding]:
  """Whether the splits leave something to train on and to choose with."""

  class Found:
    """A data set of what was read."""

    source = staticmethod(sources.__getitem__)

  splits = assemble.splits(config)
  try:
    splits.sources(Found())
  except UserError as error:
    return [Finding("splits", splits.train, str(error))]
  return []


def as_object(
  dataset: Dataset, reports: Sequence[CheckReport], findings: Sequence[Finding]
) -> dict[str, Any]:
  """What was found, for JSON."""
  splits = {
    report.split: {
      "images": report.images,
      "sizes": [{"height": h, "width": w, "images": n} for (h, w), n in sorted(report.sizes.items())],
      "pixels": report.pixels.tolist(),
      "images_with_class": report.present.tolist(),
      "ignored": report.ignored,
    }
    for report in reports
  }
  listed = [
    {"kind": f.kind, "fatal": f.fatal, "split": f.split, "message": f.message, "fix": FAULTS[f.kind].fix}
    for f in findings
  ]
  return {
    "dataset": dataset.info.name,
    "classes": list(dataset.info.classes),
    "splits": splits,
    "findings": listed,
  }


def show(dataset: Dataset, reports: Sequence[CheckReport], findings: Sequence[Finding]) -> None:
  """Prints a table of each split, what was found, and one of its kinds with what mends them."""
  out, errors = Console(), Console(stderr=True, soft_wrap=True)
  for report in reports:
    out.print(render_table(report, dataset.info))
  for finding in findings:
    if finding.fatal:
      errors.print(f"errseg: {finding.message}", highlight=False, markup=False)
    else:
      out.print(f"[yellow]warning[/yellow] {escape(finding.message)}", highlight=False)
  if findings:
    out.print(fault_table(findings))


def fault_table(findings: Sequence[Finding]) -> Table:
  """How many there are of each kind, worst first, and what mends them."""
  counts = collections.Counter(finding.kind for finding in findings)
  table = Table(title="what was found")
  for column in ("kind", "number", "training", "what to do"):
    table.add_column(column, justify="right" if column == "number" else "left")
  for kind, fault in FAULTS.items():
    if counts[kind]:
      table.add_row(fault.what, str(counts[kind]), "ends" if fault.fatal else "goes on", escape(fault.fix))
  return table
