"""Where metrics and pictures go: a log line, metrics.jsonl, TensorBoard; Weights & Biases where a config says so."""

from __future__ import annotations

import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from ml_collections import ConfigDict
from tensorboardX import SummaryWriter
from tensorboardX import summary as summaries
from tensorboardX.proto.summary_pb2 import Summary

from errseg_jax import processes
from errseg_jax.errors import UserError
from errseg_jax.metrics.curves import flagged_counts
from errseg_jax.train.score import Scored
from errseg_jax.train.wandb_run import WandbRun
from errseg_jax.train.workdir import flat

THRESHOLDS = 127  # of a precision-recall curve, as many as TensorBoard takes
JPEG_QUALITY = 90


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


def picture_summary(tag: str, picture: np.ndarray) -> Summary:
  """An RGB picture, uint8 [h, w, 3], as TensorBoard's images plugin reads it: a JPEG."""
  whole, code = cv2.imencode(
    ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
  )
  assert whole
  height, width = picture.shape[:2]
  image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=code.tobytes())
  return Summary(value=[Summary.Value(tag=tag, image=image)])


def curve_summary(tag: str, hist: np.ndarray) -> Summary:
  """Precision and recall of flagging errors, as TensorBoard's pr_curves plugin reads them.

  Args:
    tag: its name.
    hist: integer [2, 4096], row 0 correct, row 1 wrong (`metrics.errors.error_histogram`).
  """
  counts = flagged_counts(hist, np.linspace(0, 1, THRESHOLDS))
  hit, false, _, missed = counts
  precision, recall = hit / np.maximum(hit + false, 1), hit / np.maximum(hit + missed, 1)
  return summaries.pr_curve_raw(tag, *counts, precision, recall, THRESHOLDS)


class MetricWriter:
  """Writes scalars, pictures and curves. Only process 0 does.

  Args:
    workdir: gets metrics.jsonl and TensorBoard events.
    wandb: a run on Weights & Biases; None without.
  """

  def __init__(self, workdir: pathlib.Path, wandb: WandbRun | None = None):
    self.path = pathlib.Path(workdir) / "metrics.jsonl"
    self.board = SummaryWriter(str(workdir)) if processes.first() else None
    self.wandb = wandb
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
    if self.wandb is not None:
      self.wandb.scalars(self.offset + step, {f"{stage}/{name}": value for name, value in scalars.items()})
    text = "  ".join(f"{k} {v:.4g}" for k, v in scalars.items())
    logging.getLogger("errseg").info("%s %d  %s", stage, step, text)

  def write_scored(self, stage: str, step: int, scored: Scored) -> None:
    """Scores of the choose split as scalars `choose/NAME`; its pictures, and the curve of P_ep, to TensorBoard."""
    self.write_scalars(stage, step, {f"choose/{k}": v for k, v in scored.scores.items()})
    if self.board is None:
      return
    at = self.offset + step
    pictures = {f"{stage}/images/{name}": picture for name, picture in scored.pictures.items()}
    for tag, picture in pictures.items():
      self.board.file_writer.add_summary(picture_summary(tag, picture), at)
    if pictures and self.wandb is not None:
      self.wandb.pictures(at, pictures)
    if scored.errors is not None:
      self.board.file_writer.add_summary(curve_summary(f"{stage}/choose/P_ep", scored.errors), at)

  def write_run(self, config: Mapping[str, Any], step: int, chosen: Mapping[str, float]) -> None:
    """What TensorBoard's table of runs (hparams) shows: the config, and the last scores of each stage.

    They go into the run's own events: `SummaryWriter.add_hparams` would make a second run of them, without its curves.

    Args:
      config: {"a.b": value}.
      step: of the whole run, that it ends at.
      chosen: scores of what was chosen after training, written as scalars `chosen/NAME`.
    """
    if self.board is None:
      return
    final = {f"chosen/{name}": value for name, value in chosen.items()}
    for tag, value in final.items():
      self.board.add_scalar(tag, value, step)
    if self.wandb is not None:
      self.wandb.summary(final)
    for row in read_metrics(self.path):  # the last one of each tag stays
      final |= {f"{row['stage']}/{k}": v for k, v in row.items() if k.startswith("choose/")}
    settings = {k: v if isinstance(v, bool | int | float | str) else json.dumps(v) for k, v in config.items()}
    for part in summaries.hparams(settings, final):
      self.board.file_writer.add_summary(part)

  def flush(self) -> None:
    if self.board is not None:
      self.board.flush()

  def close(self) -> None:
    """Everything is written; a second call does nothing."""
    if self.board is not None:
      self.board.close()
    if self.wandb is not None:
      self.wandb.close()
      self.wandb = None


def make_writer(workdir: pathlib.Path, config: ConfigDict) -> MetricWriter:
  """The writer of a run.

  Raises:
    UserError: `config.train.wandb` names a project, and wandb is missing or refuses.
  """
  wandb = None
  if config.train.wandb and processes.first():
    wandb = WandbRun(config.train.wandb, pathlib.Path(workdir), flat(config))
  return MetricWriter(workdir, wandb)
