"""Fifty starts that are killed anywhere: while they import, compile, train, save, choose."""

import random
import signal
import subprocess
import time

import numpy as np
import pytest

from errseg_jax.train.checkpoints import StageCheckpoints
from tests.train.test_resume import CONFIG, arrays, start

KILLS, STEPS = 50, 5
ORDER = ("semantic", "detail", "error")


@pytest.fixture(scope="module")
def config_file(tiny_config, tmp_path_factory):
  root = tmp_path_factory.mktemp("kills")
  config = tiny_config(order=ORDER, error_branch__prior="detail", train__log_every=1)
  for name in ORDER:
    config.stages[name].update(steps=STEPS, save_every=1, eval_every=2, ema=0.9)
  (root / "config.json").write_text(config.to_json())
  (root / "config.py").write_text(CONFIG.format(folder=str(root)))
  return root / "config.py"


@pytest.mark.proof
def test_every_restart_goes_on_to_the_same_bits(config_file, tmp_path):
  with (tmp_path / "log").open("w+") as log:
    assert start(config_file, tmp_path / "whole", log).wait() == 0  # compiles, too
    began = time.monotonic()
    assert start(config_file, tmp_path / "again", log).wait() == 0
    longest = time.monotonic() - began
    seed = random.randrange(10**6)
    rng, kills, runs = random.Random(seed), [], []
    print(f"seed {seed}; an undisturbed run takes {longest:.0f} s")
    while len(kills) < KILLS:
      runs.append(tmp_path / f"run{len(runs)}")
      while True:
        process, kind = start(config_file, runs[-1], log), rng.choice((signal.SIGKILL, signal.SIGTERM))
        try:
          status = process.wait(rng.uniform(0, longest))
        except subprocess.TimeoutExpired:
          process.send_signal(kind)
          # Before training there is nothing to save, and SIGTERM ends it at once.
          assert process.wait() in (
            (-signal.SIGKILL,) if kind == signal.SIGKILL else (143, -signal.SIGTERM, 0)
          ), (tmp_path / "log").read_text()[-3000:]
          kills.append(kind)
          continue
        assert status == 0, (tmp_path / "log").read_text()[-3000:]
        break
  print(f"{kills.count(signal.SIGKILL)} SIGKILL, {kills.count(signal.SIGTERM)} SIGTERM over {len(runs)} runs")
  for run in runs:
    assert (run / "choice.json").read_bytes() == (tmp_path / "whole" / "choice.json").read_bytes()
    for name in ORDER:
      best = {
        StageCheckpoints(folder, name, STEPS, "best").manager.best_step()
        for folder in (tmp_path / "whole", run)
      }
      assert len(best) == 1
      for item in ("state", "result"):
        one, other = (
          arrays(folder / "checkpoints" / name / str(STEPS) / item) for folder in (tmp_path / "whole", run)
        )
        assert one.keys() == other.keys()
        for key, value in one.items():
          np.testing.assert_array_equal(other[key], value, err_msg=f"{run.name} {name} {item}{key}")
