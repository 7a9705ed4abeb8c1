"""A process that does not come, or that dies: the others say so, and the next start goes on."""

import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from errseg_jax import processes
from tests.processes.conftest import losses


@pytest.mark.parametrize(
  ("index", "said"),
  [
    (0, "process 0 of 2 waited 2 s (ERRSEG_TIMEOUT) for process 1"),
    (1, "for process 0, which does not answer at"),
  ],
)
def test_a_process_that_does_not_come_is_named(start, config_file, tmp_path, index, said):
  words = ["train", f"--config={config_file()}", f"--workdir={tmp_path / 'run'}"]
  group = start(words, 2, indices=[index], ERRSEG_TIMEOUT="2")
  assert group.wait(60) == [processes.LOST]
  (text,) = group.texts()
  assert said in text
  assert len(text.strip().splitlines()) == 1
  assert not (tmp_path / "run").exists()


def test_off_runs_alone(start, config_file, shared_data, tmp_path):
  words = ["train", f"--config={config_file()}", f"--workdir={tmp_path}", "--distributed=off"]
  words += [f"--config.data.root={shared_data}/nothing"]
  group = start(words, 2, indices=[1])
  assert group.wait(60) == [2]  # it has not waited
  assert "no such folder" in group.texts()[0]


def test_a_mistake_ends_every_process(start, config_file, tmp_path):
  words = ["train", f"--config={config_file(stages__error__batch_size=7)}", f"--workdir={tmp_path / 'run'}"]
  group = start(words, 2)
  assert group.wait(60)[0] == 2
  assert "batch_size=7 is not a multiple of 2 devices" in group.texts()[0]


def state(workdir, step):
  """Arrays of a checkpoint, by path."""
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])  # two processes wrote it
  with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
    folder = workdir / "checkpoints" / "semantic" / str(step) / "state"
    tree = checkpointer.restore(folder, ocp.args.StandardRestore(fallback_sharding=here))
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


@pytest.fixture(scope="module")
def killed(start, config_file, tmp_path_factory):
  """(undisturbed workdir, workdir of which one process was killed, seconds until the other ended, its status, text)."""
  root = tmp_path_factory.mktemp("killed")
  steps = 16
  config = config_file(
    order=("semantic",),
    stages__semantic__steps=steps,
    stages__semantic__batch_size=2,
    stages__semantic__save_every=4,
    stages__semantic__eval_every=0,
  )
  words = ["train", f"--config={config}", f"--workdir={root / 'killed'}"]
  group = start(words, 2, ERRSEG_TIMEOUT="20")
  while not list((root / "killed").glob("checkpoints/semantic/[0-9]*")):
    assert all(process.poll() is None for process in group.processes), group.texts()
    time.sleep(0.01)
  group.processes[1].send_signal(signal.SIGKILL)
  began = time.monotonic()
  statuses = group.wait(60)
  seconds = time.monotonic() - began
  start(words, 2).succeed()
  start([*words[:2], f"--workdir={root / 'whole'}"], 2).succeed()
  return root, seconds, statuses, group.texts()[0], steps


def test_the_others_end_in_time_and_say_why(killed):
  _, seconds, statuses, text, _ = killed
  assert statuses == [processes.LOST, -signal.SIGKILL]
  assert seconds < 20
  last = [line for line in text.splitlines() if line.startswith("errseg: ")][-1]
  assert "process 0 of 2 has lost another one" in last
  assert "start all of them again" in last


def test_the_next_start_goes_on_to_the_same_bits(killed):
  root, *_, steps = killed
  assert losses(root / "killed") == losses(root / "whole")
  one, other = state(root / "whole", steps), state(root / "killed", steps)
  assert one.keys() == other.keys()
  for key, value in one.items():
    np.testing.assert_array_equal(other[key], value, err_msg=key)


def test_sigterm_to_one_stops_all_after_the_same_step(start, config_file, tmp_path):
  config = config_file(
    order=("semantic",),
    stages__semantic__steps=5000,
    stages__semantic__batch_size=2,
    stages__semantic__eval_every=0,
  )
  group = start(["train", f"--config={config}", f"--workdir={tmp_path / 'run'}"], 2)
  while not (tmp_path / "run" / "metrics.jsonl").exists() or not losses(tmp_path / "run"):
    assert all(process.poll() is None for process in group.processes), group.texts()
    time.sleep(0.05)
  group.processes[1].send_signal(signal.SIGTERM)
  assert group.wait(60) == [143, 143]
  (saved,) = (int(path.name) for path in (tmp_path / "run" / "checkpoints" / "semantic").glob("[0-9]*"))
  assert saved == max(step for _, step in losses(tmp_path / "run"))
