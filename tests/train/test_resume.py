"""A run that is killed again and again ends as the one that never was."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from errseg_jax.evaluate import evaluate
from errseg_jax.train.checkpoints import StageCheckpoints
from errseg_jax.train.workdir import load_config

STAGES = ("semantic", "fold0", "fold1", "detail", "error")
CONFIG = """
from errseg_jax.models.backbones import resnet
from errseg_jax.train.workdir import load_config

resnet.BLOCKS[10] = (1, 1, 1, 1)


def get_config(arg=None):
  return load_config({folder!r})
"""


def start(config, workdir, log):
  command = [sys.executable, "-m", "errseg_jax.cli", "train"]
  command += [f"--config={config}", f"--workdir={workdir}"]
  return subprocess.Popen(command, stdout=log, stderr=log, env=dict(os.environ))


def checkpoint(workdir, stage, step):
  """A whole checkpoint is there."""
  return (workdir / "checkpoints" / stage / str(step)).exists()


def writing(workdir, stage):
  """A checkpoint is being written after the first one."""
  folder = workdir / "checkpoints" / stage
  return checkpoint(workdir, stage, 1) and any(".orbax-checkpoint-tmp" in p.name for p in folder.glob("*"))


def run_until(config, workdir, log, condition, kill=signal.SIGKILL):
  """Starts the run, sends it a signal once the condition holds, returns its exit status."""
  process = start(config, workdir, log)
  deadline = time.monotonic() + 240
  while process.poll() is None and not condition():
    assert time.monotonic() < deadline, "the run hangs"
    time.sleep(0.002)
  process.send_signal(kill)
  return process.wait()


def choosing(log):
  """A condition: from now on, a run said that it chooses."""
  before = pathlib.Path(log.name).read_text().count("choosing on")
  return lambda: pathlib.Path(log.name).read_text().count("choosing on") > before


def interrupted(config, workdir, log):
  """Exit statuses of a run that is stopped in every stage, and of the last start, which completes it.

  Before the last: whether the kill while it chose left a choice.json.
  """
  delay = random.random()
  print(f"random kill {delay:.3f} s after the checkpoint")

  def later():
    if not checkpoint(workdir, "detail", 3):
      return False
    time.sleep(delay)
    return True

  return [
    run_until(config, workdir, log, lambda: writing(workdir, "semantic")),
    run_until(config, workdir, log, lambda: checkpoint(workdir, "fold1", 2)),
    run_until(config, workdir, log, lambda: checkpoint(workdir, "detail", 1), signal.SIGTERM),
    run_until(config, workdir, log, later),
    run_until(config, workdir, log, lambda: checkpoint(workdir, "error", 5)),
    run_until(config, workdir, log, choosing(log)),
    (workdir / "choice.json").exists(),
    start(config, workdir, log).wait(),
  ]


@pytest.fixture(scope="module")
def runs(tiny_config, tmp_path_factory):
  """(workdir of an undisturbed run, of an interrupted one, exit statuses of the latter)."""
  root = tmp_path_factory.mktemp("resume")
  order = ("semantic", "detail", "error")
  config = tiny_config(order=order, error_branch__prior="detail", train__log_every=3)
  config.splits.update(error_source="crossfit", folds=2)
  config.detail_loss.pixel = {"name": "confusion", "refresh": 2}  # the matrix in force is saved, too
  for name in order:
    config.stages[name].update(steps=5, save_every=1, eval_every=2, ema=0.9)
  (root / "config.json").write_text(config.to_json())
  (root / "config.py").write_text(CONFIG.format(folder=str(root)))
  with (root / "whole.log").open("w+") as log, (root / "killed.log").open("w+") as killed_log:
    whole = []
    thread = threading.Thread(
      target=lambda: whole.append(start(root / "config.py", root / "whole", log).wait())
    )
    thread.start()
    statuses = interrupted(root / "config.py", root / "killed", killed_log)
    thread.join()
  assert whole == [0], (root / "whole.log").read_text()
  assert statuses[-1] == 0, (root / "killed.log").read_text()
  return root / "whole", root / "killed", statuses


def test_signals_end_the_run_as_they_should(runs):
  assert runs[2][:3] == [-signal.SIGKILL, -signal.SIGKILL, 143]
  assert runs[2][5:] == [-signal.SIGKILL, False, 0]


def arrays(folder):
  with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.restore(folder)
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


@pytest.mark.parametrize("stage", STAGES)
def test_parameters_optimizer_and_average_are_bit_identical(runs, stage):
  whole, killed = (run / "checkpoints" / stage for run in runs[:2])
  steps, more = ({p.name for p in run.iterdir() if p.name.isdigit()} for run in (whole, killed))
  # A kill may come before an old checkpoint is removed; it must not be taken for the best.
  assert steps <= more
  best = [StageCheckpoints(run, stage, 5, "best").manager.best_step() for run in runs[:2]]
  assert best[0] == best[1]
  assert "5" in steps
  for step in sorted(steps):
    for item in ("state", "result"):
      a, b = (arrays(run / step / item) for run in (whole, killed))
      assert a.keys() == b.keys()
      assert item == "result" or {k.split("'")[1] for k in a} == {"step", "variables", "opt_state", "ema"}
      for key, value in a.items():
        assert value.dtype == b[key].dtype
        np.testing.assert_array_equal(b[key], value, err_msg=f"{stage}/{step}/{item}{key}")


def test_the_choice_is_the_same(runs):
  assert (runs[0] / "choice.json").read_bytes() == (runs[1] / "choice.json").read_bytes()


def test_the_scores_are_the_same(runs):
  results = [evaluate(load_config(run), run, "val") for run in runs[:2]]
  for result in results:
    assert result.pop("speed")
  assert results[0] == results[1]


def test_the_metrics_are_the_same_but_for_time(runs):
  def rows(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(s).items() if not k.startswith("time/")} for s in lines]

  assert rows(runs[0]) == rows(runs[1])
  logged = [(r["stage"], r["step"]) for r in rows(runs[0]) if "train/loss" in r]
  assert logged == [(stage, step) for stage in STAGES for step in (3, 5)]
