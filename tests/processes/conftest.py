"""Commands in several processes of one machine, which speak to each other as those of several machines do (gloo)."""

import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest

MAIN = """
import sys
from errseg_jax.models.backbones import resnet
resnet.BLOCKS[10] = (1, 1, 1, 1)
from errseg_jax.cli import main
sys.exit(main(sys.argv[1:]))
"""
CONFIG = """
from errseg_jax.train.workdir import load_config


def get_config(arg=None):
  return load_config({folder!r})
"""


@dataclasses.dataclass
class Group:
  """Processes of one run, and what each printed."""

  processes: list
  logs: list

  def wait(self, seconds: float = 1200) -> list[int]:
    """Their exit statuses; so long only where they hang, a busy machine with few cores takes minutes."""
    deadline = time.monotonic() + seconds
    try:
      return [process.wait(max(0.1, deadline - time.monotonic())) for process in self.processes]
    finally:
      for process in self.processes:
        process.kill()

  def texts(self) -> list[str]:
    return [log.read_text(errors="replace") for log in self.logs]

  def succeed(self) -> list[str]:
    """Waits; what they printed."""
    statuses = self.wait()
    assert not any(statuses), "\n".join(text[-3000:] for text in self.texts())
    return self.texts()


def free_port() -> int:
  with socket.socket() as server:
    server.bind(("127.0.0.1", 0))
    return server.getsockname()[1]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
  """(words, count, devices, indices, main, **environment) -> Group of processes that run `main`.

  One alone is started without the others' variables.
  """
  folder, groups = tmp_path_factory.mktemp("logs"), []

  def run(words, count=1, devices=1, indices=None, main=MAIN, **environment) -> Group:
    group = Group([], [])
    address = f"127.0.0.1:{free_port()}"
    for index in range(count) if indices is None else indices:
      env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), **environment}
      if count > 1:
        env |= {
          "JAX_COORDINATOR_ADDRESS": address,
          "JAX_NUM_PROCESSES": str(count),
          "JAX_PROCESS_ID": str(index),
        }
      log = folder / f"{len(groups)}_{index}.log"
      command = [sys.executable, "-c", main, *map(str, words)]
      with log.open("w") as out:
        group.processes.append(subprocess.Popen(command, stdout=out, stderr=out, env=env))
      group.logs.append(log)
    groups.append(group)
    return group

  yield run
  for group in groups:
    for process in group.processes:
      process.kill()


@pytest.fixture(scope="module")
def config_file(tiny_config, tmp_path_factory):
  """(**changes of the tiny config) -> a config file for all devices there are."""

  def write(**changes) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("config")
    config = tiny_config(num_devices=None, train__log_every=1, **changes)
    (folder / "config.json").write_text(config.to_json())
    (folder / "config.py").write_text(CONFIG.format(folder=str(folder)))
    return folder / "config.py"

  return write


def losses(workdir: pathlib.Path) -> dict[tuple[str, int], float]:
  """(stage, step) -> loss; no step is written twice."""
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  found = [((row["stage"], row["step"]), row["train/loss"]) for row in rows if "train/loss" in row]
  assert len(dict(found)) == len(found)
  return dict(found)
