"""How a process finds the others of its run, by what started it, and waits for them."""

import types

import jax
import pytest

from errseg_jax import processes
from errseg_jax.errors import UserError
from errseg_jax.sharding import side_by_side


@pytest.fixture
def joined(monkeypatch):
  """What jax was asked for, each time; it joins nothing."""
  calls = []
  monkeypatch.setattr(jax.distributed, "initialize", lambda **options: calls.append(options))
  monkeypatch.setattr(processes, "TPU_CHIPS", ())
  return calls


@pytest.mark.parametrize(
  ("environment", "said"),
  [
    (
      {"JAX_NUM_PROCESSES": "2"},
      "JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID is not set beside JAX_NUM_PROCESSES",
    ),
    ({"JAX_PROCESS_ID": "0"}, "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES is not set beside JAX_PROCESS_ID"),
    (
      {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"},
      "JAX_NUM_PROCESSES=2 and JAX_PROCESS_ID=2",
    ),
    (
      {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "x", "JAX_PROCESS_ID": "1"},
      "JAX_NUM_PROCESSES=x and JAX_PROCESS_ID=1",
    ),
    (
      {
        "JAX_COORDINATOR_ADDRESS": "a:1",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "1",
        "ERRSEG_TIMEOUT": "soon",
      },
      "ERRSEG_TIMEOUT=soon",
    ),
    (
      {"JAX_COORDINATOR_ADDRESS": "nowhere", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"},
      "JAX_COORDINATOR_ADDRESS=nowhere",
    ),
  ],
)
def test_variables_that_do_not_fit(monkeypatch, environment, said):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  with pytest.raises(UserError) as caught:
    processes.start("auto")
  assert said in str(caught.value)


def test_unknown_mode():
  with pytest.raises(UserError, match="--distributed='on': known are auto, off"):
    processes.start("on")


def test_one_process_starts_nothing(monkeypatch):
  monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "a:1")
  monkeypatch.setenv("JAX_NUM_PROCESSES", "1")
  monkeypatch.setenv("JAX_PROCESS_ID", "0")
  monkeypatch.setenv("SLURM_NTASKS", "1")
  processes.start("auto")
  assert not processes.several()
  assert processes.first()


@pytest.mark.parametrize(
  ("environment", "devices"),
  [
    ({"SLURM_NTASKS": "8"}, None),  # the batch script of an allocation for eight
    ({"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}, None),
    ({"SLURM_STEP_NUM_TASKS": "8", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, "jax's"),
    ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_GPUS_PER_TASK": "1", "CUDA_VISIBLE_DEVICES": "3"}, [0]),
    (
      {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "CUDA_VISIBLE_DEVICES": "4,5,6,7"},
      [0, 1, 2, 3],
    ),
    ({"OMPI_COMM_WORLD_SIZE": "2"}, "jax's"),
    ({"TPU_WORKER_HOSTNAMES": "a,b"}, "jax's"),
  ],
)
def test_who_started_several(monkeypatch, joined, environment, devices):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  processes.start("auto")
  processes.start("off")
  assert len(joined) == (devices is not None)
  if joined:
    assert joined[0].get("local_device_ids", "jax's") == devices


def test_a_host_with_tpu_chips_asks_jax(monkeypatch, joined, tmp_path):
  (tmp_path / "accel0").touch()
  monkeypatch.setattr(processes, "TPU_CHIPS", (f"{tmp_path}/accel[0-9]*",))
  monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: name == "libtpu")
  processes.start("auto")
  assert len(joined) == 1

  def without_metadata(**_):
    raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr(jax.distributed, "initialize", without_metadata)
  processes.start("auto")  # one machine, not of a slice


def test_one_of_several_tpu_hosts_does_not_work_alone(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 4)
  with pytest.raises(UserError, match="one of 4 of a TPU slice"):
    processes.check_alone()


def test_devices_in_a_row_are_of_one_process():
  device = types.SimpleNamespace  # of two hosts of a slice, by the chips' places in it
  devices = [device(id=i, process_index=i // 2 % 2) for i in range(8)]
  ordered = [(d.process_index, d.id) for d in side_by_side(devices)]
  assert ordered == [(0, 0), (0, 1), (0, 4), (0, 5), (1, 2), (1, 3), (1, 6), (1, 7)]


LATE = """
import sys, time
import numpy as np
from errseg_jax import processes
processes.start("auto")
if not processes.first():
  time.sleep(float(sys.argv[1]))
print("heard:", sum(int(share["x"][0]) for share in processes.gathered({"x": np.array([3])})))
"""


@pytest.mark.proof
def test_a_process_may_come_late(start):
  # Later than the 30 s that gloo waits when processes first compute together.
  assert all("heard: 6" in text for text in start([45], 2, main=LATE).succeed())
