"""Where metrics go: a log line, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import json
import logging
import pathlib
from collections.abc import Mapping, Sequence

from tensorboardX import SummaryWriter

from errseg_jax import processes
from errseg_jax.errors import UserError


def read_metrics(path: pathlib.Path) -> list[dict]:
  """The objects of a metrics.jsonl; a last line cut short by a kill is left out.

  Raises:
    UserError: a damaged line before the last.
  """
  rows: list[dict] = []
  lines = path.read_text().splitlines() if path.exists() else []
  for number, line in enumerate(lines, 1):
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      if number < len(lines):
        raise UserError(f"{path}:{number}: not JSON; remove the line to go on") from None
  return rows


def cut_metrics(path: pathlib.Path, order: Sequence[str], stage: str, step: int) -> None:
  """Drops what was written after `step` of `stage`: a resumed run writes it again. The first process does."""
  if not processes.first():
    return
  place = order.index(stage)
  rows = [
    row
    for row in read_metrics(path)
    if row["stage"] in order and (order.index(row["stage"]), row["step"]) <= (place, step)
  ]
  whole = path.with_suffix(".tmp")
  whole.write_text("".join(json.dumps(row) + "\n" for row in rows))
  whole.replace(path)


class MetricWriter:
  """Writes scalars; the method names are clu's, whose own writers need TensorFlow.

  Args:
    workdir: gets metrics.jsonl and TensorBoard events. Only process 0 writes.
  """

  def __init__(self, workdir: pathlib.Path):
    self.path = pathlib.Path(workdir) / "metrics.jsonl"
    self.board = SummaryWriter(str(workdir)) if processes.first() else None
    self.offset = 0

  def start_stage(self, offset: int) -> None:
    """Puts the stage's steps behind the earlier ones' on TensorBoard's axis."""
    self.offset = offset

  def write_scalars(self, stage: str, step: int, scalars: Mapping[str, float]) -> None:
    """One object in metrics.jsonl, on disk when this returns; the same to TensorBoard and the log."""
    if self.board is None:
      return
    with self.path.open("a") as file:
      file.write(json.dumps({"stage": stage, "step": step, **scalars}) + "\n")
    for name, value in scalars.items():
      self.board.add_scalar(f"{stage}/{name}", value, self.offset + step)
    text = "  ".join(f"{k} {v:.4g}" for k, v in scalars.items())
    logging.getLogger("errseg").info("%s %d  %s", stage, step, text)

  def flush(self) -> None:
    if self.board is not None:
      self.board.flush()

  def close(self) -> None:
    if self.board is not None:
      self.board.close()
