"""Wide layers split over devices: the same steps, less memory on each."""

import jax
import numpy as np
import pytest

from errseg_jax import sharding
from errseg_jax.assemble import with_defaults
from errseg_jax.errors import UserError
from errseg_jax.train.trainer import Trainer
from tests.train.test_elastic import losses, stopped_at

STEPS = 4


@pytest.fixture(scope="module", autouse=True)
def wide_at_once():
  with pytest.MonkeyPatch.context() as patch, jax.enable_x64(True):
    patch.setattr(sharding, "WIDE", 512)
    yield


@pytest.fixture(scope="module")
def config_for(tiny_config):
  def make(devices, model):
    changes = {"steps": STEPS, "batch_size": 8, "save_every": 10, "eval_every": 0}
    changes = {f"stages__semantic__{key}": value for key, value in changes.items()}
    config = tiny_config(
      order=("semantic",), dtype="float64", num_devices=devices, train__log_every=1, **changes
    )
    config.train.model_devices = model
    return with_defaults(config)

  return make


@pytest.fixture(scope="module")
def whole(config_for, tmp_path_factory):
  """(losses on one device, bytes of its step's arguments)."""
  return trained(config_for(1, 1), tmp_path_factory.mktemp("whole"))


def trained(config, folder):
  """(losses, bytes of the step's arguments on a device) of a run."""
  seen = []
  with pytest.MonkeyPatch.context() as patch:

    def compiled_step(step, stage, *arguments):
      program = step.lower(*arguments).compile()
      seen.append(program.memory_analysis().argument_size_in_bytes)
      return program

    patch.setattr("errseg_jax.train.loop.compiled_step", compiled_step)
    Trainer(config, folder).run()
  return losses(folder), seen[0]


def test_the_steps_are_those_of_one_device_and_arguments_are_smaller(config_for, whole, tmp_path):
  found, size = trained(config_for(4, 2), tmp_path)
  assert found.keys() == whole[0].keys()
  for step, value in whole[0].items():
    assert found[step] == pytest.approx(value, rel=1e-9), step
  assert size < 0.65 * whole[1]


def test_a_run_goes_on_without_the_axis(config_for, whole, tmp_path):
  stopped_at(Trainer(config_for(4, 2), tmp_path), 2)
  found, _ = trained(config_for(2, 1), tmp_path)
  for step, value in whole[0].items():
    assert found[step] == pytest.approx(value, rel=1e-9), step


def test_what_is_split():
  mesh = sharding.make_mesh(8, 2)
  assert dict(mesh.shape) == {"data": 4, "model": 2}
  tree = {
    "wide": np.zeros((16, 64)),
    "bias": np.zeros(4096),
    "odd": np.zeros((64, 33)),
    "small": np.zeros((4, 4)),
  }
  placed = sharding.place(tree, mesh)
  shapes = {name: leaf.addressable_shards[0].data.shape for name, leaf in placed.items()}
  assert shapes == {"wide": (16, 32), "bias": (4096,), "odd": (64, 33), "small": (4, 4)}


@pytest.mark.parametrize("model", [0, 3, 16])
def test_devices_that_cannot_be_shared_out(config_for, tmp_path, model):
  with pytest.raises(UserError, match=f"config.train.model_devices={model} does not divide"):
    Trainer(config_for(4, model), tmp_path)
