"""`errseg data check`: tables of every split, and all that is wrong with it."""

from __future__ import annotations

from ml_collections import ConfigDict
from rich.console import Console
from rich.markup import escape

from errseg_jax import assemble
from errseg_jax.data.checks import check_split, render_table
from errseg_jax.progress import progress_bar


def check(config: ConfigDict, split: str) -> int:
  """Checks one split, or all that the config names.

  Returns:
    0 if nothing is wrong, 2 otherwise; every problem is one line on stderr.
  """
  dataset, splits = assemble.dataset(config), config.splits
  names = [split] if split else [s for s in (splits.train, splits.choose, splits.val) if s]
  out, problems = Console(), 0
  for name in dict.fromkeys(names):
    with progress_bar(f"check {name}", len(dataset.scan(name)[0])) as show:
      report = check_split(dataset, name, lambda done, total: show(done))
    out.print(render_table(report, dataset.info))
    for line in report.warnings:
      out.print(f"[yellow]warning[/yellow] {escape(line)}", highlight=False)
    for line in report.problems:
      Console(stderr=True, soft_wrap=True).print(f"errseg: {line}", highlight=False, markup=False)
    problems += len(report.problems)
  return 2 if problems else 0
