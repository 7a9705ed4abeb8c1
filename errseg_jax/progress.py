"""Progress on a terminal: bar, ETA, images per second. Elsewhere the metric log lines serve."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  TextColumn,
  TimeElapsedColumn,
  TimeRemainingColumn,
)

from errseg_jax import processes


@contextlib.contextmanager
def progress_bar(title: str, total: int, start: int = 0) -> Iterator[Callable[..., None]]:
  """A bar on a terminal, nothing otherwise.

  Args:
    title: at its left.
    total: steps in all.
    start: steps already done.

  Yields:
    update(done, note=""), where done counts from 0.
  """
  if not sys.stderr.isatty() or not processes.first():
    yield lambda done, note="": None
    return
  columns = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TextColumn("ETA"),
    TimeRemainingColumn(),
    TextColumn("{task.fields[note]}"),
  )
  with Progress(*columns, console=Console(stderr=True)) as progress:
    task = progress.add_task(title, total=total, completed=start, note="")
    yield lambda done, note="": progress.update(task, completed=done, note=note)
