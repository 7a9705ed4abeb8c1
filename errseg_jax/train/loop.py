"""The loop of one stage: step -> log -> score -> save, resumable after any of them."""

from __future__ import annotations

import dataclasses
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from errseg_jax import processes
from errseg_jax.progress import progress_bar
from errseg_jax.sharding import shard_batch
from errseg_jax.structs import Batch
from errseg_jax.train.checkpoints import StageCheckpoints
from errseg_jax.train.confusion import ConfusionInput
from errseg_jax.train.memory import compiled_step
from errseg_jax.train.score import Scored
from errseg_jax.train.stages import Stage
from errseg_jax.train.state import TrainState, Variables
from errseg_jax.train.step import Step
from errseg_jax.train.writers import MetricWriter

log = logging.getLogger("errseg")
SLOW_LOADER = 0.3  # share of the time that the device waits for images
SLOW_LOADER_HINT = (
  "stage %s: the device waits for images %.0f %% of the time: raise loader.threads, read from shards "
  "(`errseg data convert`), or see where the time goes with `errseg bench --what=data`"
)


class Stopped(Exception):
  """SIGTERM came and the state is saved; the command exits with 143, as the shell reports a terminated one."""


class NotFinite(Exception):
  """The loss became NaN or infinite; says at which step, on which images."""


class StopSignal:
  """Notes SIGTERM instead of dying of it.

  Of several processes any may be told to stop, and all stop after the same step: jax's own service, which has the
  signal then, sees to it.
  """

  def __init__(self) -> None:
    self.received = False
    if not processes.several():
      signal.signal(signal.SIGTERM, self._note)

  def _note(self, *_: Any) -> None:
    self.received = True

  def came(self) -> bool:
    """Whether it came; asked after every step, by all processes alike."""
    if processes.several():
      self.received |= processes.told_to_stop()
    return self.received


@dataclasses.dataclass
class Loop:
  """Trains one stage.

  Attributes:
    stage: its numbers.
    step: the jitted step.
    batches: (start step) -> iterator over host batches.
    names: (step) -> names of the images of that step's batch.
    score: (variables of the trained groups, step) -> scores on the choose split, and what is drawn with them.
    checkpoints: of the stage.
    writer: of metrics.
    log_every: steps.
    stop: looked at after each step.
    mesh: the devices.
    confusion: of a loss that wants a confusion matrix.
    told: that the images come too slowly.
  """

  stage: Stage
  step: Step
  batches: Callable[[int], Iterator[dict[str, np.ndarray]]]
  names: Callable[[int], list[str]]
  score: Callable[[Variables, int], Scored]
  checkpoints: StageCheckpoints
  writer: MetricWriter
  log_every: int
  stop: StopSignal
  mesh: jax.sharding.Mesh
  confusion: ConfusionInput | None = None
  told: bool = False

  def run(self, state: TrainState, frozen: Sequence[Variables], pending: list[dict]) -> TrainState:
    """From the state's step to the end of the stage.

    The order matters: what a step wrote to metrics.jsonl is on disk before the checkpoint that counts it.

    Args:
      state: to start from; donated.
      frozen: variables of the other groups; step i, from 0, takes the i mod len(frozen)-th. They are alike in
        shape and sharding, so the step is compiled once.
      pending: metrics of steps done but not yet logged, from the checkpoint.

    Raises:
      Stopped: SIGTERM; the state is saved.
      NotFinite: the loss is NaN or infinite.
      UserError: a step needs more memory than the device has.
    """
    stage, start = self.stage, int(state.step)
    batches = self.batches(start)
    given = frozen if self.confusion is None else self.confusion.attached(frozen)
    # Steps after `timed` are on the clock, which stands still for what is no step.
    waiting, clock, data_time, timed = list(pending), time.perf_counter(), 0.0, start
    program: Any = None
    with progress_bar(stage.name, stage.steps, start) as show:
      for done in range(start + 1, stage.steps + 1):
        if self.confusion is not None and self.confusion.due(done - 1):
          self.confusion.recount(state.result)
          given = self.confusion.attached(frozen)
        before = time.perf_counter()
        batch = Batch(**shard_batch(next(batches), self.mesh))
        data_time += time.perf_counter() - before
        network = given[(done - 1) % len(given)]
        if program is None:
          program = compiled_step(self.step, stage, state, network, batch)
          processes.wait()  # each compiles at its own pace
          clock, data_time = time.perf_counter(), 0.0
        state, metrics = program(state, network, batch)
        waiting.append(metrics)
        ends = done == stage.steps
        logs = done % self.log_every == 0 or ends
        scores = ends or (stage.eval_every and done % stage.eval_every == 0)
        stops = self.stop.came() and not ends  # looked at once: what stops has been saved
        saves = scores or done % stage.save_every == 0 or stops
        if logs or saves:
          waiting = self.fetch(waiting, done)
        if logs:
          elapsed = time.perf_counter() - clock
          show(done, self.log(waiting, done, done - timed, elapsed, data_time))
          waiting, clock, data_time, timed = [], time.perf_counter(), 0.0, done
        paused, value = time.perf_counter(), None
        if scores:
          scored = self.score(state.result, done)
          self.writer.write_scored(stage.name, done, scored)
          value = scored.scores[stage.score]
        if saves:
          # A copy: the list grows while the checkpoint is written in the background.
          progress: dict[str, Any] = {"stage": stage.name, "step": done, "pending": list(waiting)}
          if self.confusion is not None:
            progress["confusion"] = self.confusion.counts.tolist()
          self.checkpoints.save(state, progress, value)
        if stops:
          self.checkpoints.wait()
          self.writer.close()
          raise Stopped
        clock += time.perf_counter() - paused
    self.checkpoints.wait()
    return state

  def fetch(self, waiting: list[dict], done: int) -> list[dict]:
    """Metrics from the device, checked: a checkpoint never holds a state after a NaN."""
    rows = [{k: float(v) for k, v in row.items()} for row in jax.device_get(waiting)]
    for back, row in enumerate(reversed(rows)):
      if not all(math.isfinite(v) for v in row.values()):
        step = done - back
        first = next(
          (done - len(rows) + 1 + i for i, r in enumerate(rows) if not math.isfinite(r["loss"])), step
        )
        raise NotFinite(
          f"stage {self.stage.name}: the loss is not finite at step {first}; its images: "
          f"{', '.join(self.names(first - 1))}. Lower the learning rate, or clip the gradient"
        )
    return rows

  def log(self, rows: list[dict], done: int, timed: int, elapsed: float, data_time: float) -> str:
    """Writes the mean over the steps since the last log, the last `timed` of which took `elapsed`; the bar's note."""
    scalars = {f"train/{k}": float(np.mean([row[k] for row in rows])) for k in rows[0]}
    speed = timed * self.stage.batch_size / max(elapsed, 1e-9)
    timing = {"time/images_per_s": speed, "time/data_wait_share": data_time / max(elapsed, 1e-9)}
    self.writer.write_scalars(self.stage.name, done, scalars | timing)
    if timing["time/data_wait_share"] > SLOW_LOADER and not self.told:
      self.told = True
      log.warning(SLOW_LOADER_HINT, self.stage.name, 100 * timing["time/data_wait_share"])
    return f"loss {scalars['train/loss']:.4f}  {speed:.1f} images/s  data wait {timing['time/data_wait_share']:.0%}"
