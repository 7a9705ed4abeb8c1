"""A run goes on on more or fewer devices: the same parameters, the same samples, the same steps."""

import shutil

import jax
import numpy as np
import pytest

from errseg_jax.assemble import with_defaults
from errseg_jax.sharding import make_mesh, place
from errseg_jax.train.checkpoints import StageCheckpoints
from errseg_jax.train.initialise import initial_variables
from errseg_jax.train.loop import Stopped
from errseg_jax.train.optim import make_optimizer
from errseg_jax.train.state import TrainState, split
from errseg_jax.train.trainer import Trainer
from errseg_jax.train.writers import read_metrics

STEPS, STOP = 5, 3


@pytest.fixture(scope="module")
def config_for(tiny_config):
  def make(devices):
    changes = {"steps": STEPS, "batch_size": 8, "save_every": 10, "eval_every": 0}
    changes = {f"stages__semantic__{key}": value for key, value in changes.items()}
    return with_defaults(
      tiny_config(order=("semantic",), dtype="float64", num_devices=devices, train__log_every=1, **changes)
    )

  return make


@pytest.fixture(scope="module", autouse=True)
def doubles():
  with jax.enable_x64(True):
    yield


def stopped_at(trainer, step):
  """Runs until SIGTERM comes after a step."""
  with pytest.MonkeyPatch.context() as patch:
    asked = iter(range(1, step + 1))
    patch.setattr("errseg_jax.train.loop.StopSignal.came", lambda self: next(asked) == step)
    with pytest.raises(Stopped):
      trainer.run()


def losses(workdir):
  return {
    row["step"]: row["train/loss"] for row in read_metrics(workdir / "metrics.jsonl") if "train/loss" in row
  }


@pytest.fixture(scope="module")
def runs(config_for, tmp_path_factory):
  """(workdir of a run on one device, {devices: workdir of a run that was stopped on so many})."""
  root = tmp_path_factory.mktemp("elastic")
  Trainer(config_for(1), root / "whole").run()
  for devices in (1, 8):
    stopped_at(Trainer(config_for(devices), root / str(devices)), STOP)
  return root / "whole", {devices: root / str(devices) for devices in (1, 8)}


def restored(config, workdir):
  """The state that a run starts from."""
  trainer = Trainer(config, workdir)
  stage, mesh = trainer.stages[0], make_mesh(config.num_devices)
  trained, _ = split(initial_variables(trainer.model, config), stage.groups)
  tx = make_optimizer(stage.optimizer, stage.steps, trained["params"])
  state = place(TrainState.create(trained, tx, stage.ema > 0), mesh)
  found = StageCheckpoints(workdir, stage.name, stage.steps, "best").restore(state)
  assert found is not None
  return found[0]


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_what_eight_devices_saved_is_the_same_on_fewer(runs, config_for, devices):
  _, stopped = runs
  before, after = restored(config_for(8), stopped[8]), restored(config_for(devices), stopped[8])
  assert int(after.step) == STOP
  for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
    assert (len(one.devices()), len(other.devices())) == (8, devices)
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("before", "after"), [(8, 1), (8, 2), (8, 4), (1, 8)])
def test_the_steps_go_on(runs, config_for, tmp_path, before, after):
  whole, stopped = runs
  shutil.copytree(stopped[before], tmp_path / "run")
  Trainer(config_for(after), tmp_path / "run").run()
  one, other = losses(whole), losses(tmp_path / "run")
  assert list(other) == list(range(1, STEPS + 1))
  for step, value in one.items():
    assert other[step] == pytest.approx(value, rel=1e-9), step
