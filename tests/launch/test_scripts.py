"""The scripts do what they say, with the tools that they call replaced by scripts of ours."""

import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script):
  done = subprocess.run(["shellcheck", script], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_without_a_command_it_says_how(script):
  assert os.access(script, os.X_OK) or script.suffix == ".sbatch"
  env = os.environ | {"TPU": "pod", "ZONE": "here"}
  done = subprocess.run(["bash", script], capture_output=True, text=True, env=env)
  assert done.returncode == 2
  assert done.stderr.startswith("usage: ")


def tool(folder: pathlib.Path, name: str, text: str) -> None:
  """A command on the path."""
  folder.mkdir(exist_ok=True)
  (folder / name).write_text("#!/usr/bin/env bash\n" + text)
  (folder / name).chmod(0o755)


def run(words, folder=None, cwd=None, **environment):
  path = os.environ["PATH"] if folder is None else f"{folder}:{os.environ['PATH']}"
  env = os.environ | {"PATH": path} | environment
  return subprocess.run(list(map(str, words)), capture_output=True, text=True, env=env, cwd=cwd, timeout=60)


SHOW = 'echo "$JAX_PROCESS_ID of $JAX_NUM_PROCESSES at $JAX_COORDINATOR_ADDRESS, GPU ${CUDA_VISIBLE_DEVICES:-none}"'


@pytest.mark.parametrize(("gpus", "shown"), [(0, "none"), (1, "none"), (3, None)])
def test_local_starts_each_process_with_its_place(tmp_path, gpus, shown):
  tool(tmp_path / "bin", "nvidia-smi", f"for ((i = 0; i < {gpus}; i++)); do echo GPU; done\n")
  env = {"CUDA_VISIBLE_DEVICES": "", "ERRSEG_PORT": "9000"}
  done = run([LAUNCH / "local.sh", 3, "bash", "-c", SHOW], tmp_path / "bin", **env)
  assert done.returncode == 0, done.stderr
  lines = [f"{i} of 3 at 127.0.0.1:9000, GPU {i if shown is None else shown}" for i in range(3)]
  assert sorted(done.stdout.splitlines()) == lines


def test_two_runs_on_a_machine_do_not_meet():
  shown = [
    run([LAUNCH / "local.sh", 2, "bash", "-c", 'echo "$JAX_COORDINATOR_ADDRESS"']).stdout for _ in "ab"
  ]
  first, second = (set(text.split()) for text in shown)
  assert (len(first), len(second)) == (1, 1)
  assert first != second


def test_local_ends_with_what_failed_and_stops_the_others():
  began = time.monotonic()
  done = run([LAUNCH / "local.sh", 3, "bash", "-c", "((JAX_PROCESS_ID == 1)) && exit 75; exec sleep 50"])
  assert done.returncode == 75
  assert time.monotonic() - began < 20


def test_local_lets_the_others_save():
  save = "trap 'sleep 0.5; echo saved; kill $!; exit 143' TERM; echo ready; sleep 30 & wait"
  words = [str(LAUNCH / "local.sh"), "2", "bash", "-c", save]
  with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    process.send_signal(signal.SIGTERM)
    assert process.stdout.read().splitlines() == ["saved"] * 2
    assert process.wait(20) == 143


@pytest.mark.parametrize("status", [0, 1, 2, 75, 134, 137, 143])
def test_slurm_requeues_what_another_start_mends(tmp_path, status):
  tool(tmp_path / "bin", "srun", f'echo "srun $*"; exit {status}\n')
  tool(tmp_path / "bin", "scontrol", 'echo "scontrol $*"\n')
  words = ["bash", LAUNCH / "slurm.sbatch", "errseg", "train", "--workdir=a b"]
  done = run(words, tmp_path / "bin", SLURM_JOB_ID="7")
  assert done.returncode == status
  again = ["scontrol requeue 7"] if status in (75, 134, 137, 143) else []
  assert done.stdout.splitlines() == ["srun --kill-on-bad-exit=1 errseg train --workdir=a b", *again]


def test_tpu_vm_keeps_the_words_apart(tmp_path):
  tool(tmp_path / "bin", "gcloud", 'for word in "$@"; do echo "<$word>"; done\n')
  words = [LAUNCH / "tpu_vm.sh", "errseg", "train", "--workdir=a b;c"]
  done = run(words, tmp_path / "bin", TPU="pod", ZONE="here")
  assert done.returncode == 0
  shown = done.stdout.splitlines()
  assert shown[:7] == ["<compute>", "<tpus>", "<tpu-vm>", "<ssh>", "<pod>", "<--zone=here>", "<--worker=all>"]
  command = shown[7].removeprefix("<--command=").removesuffix(">").replace("cd errseg_jax && ", "")
  tool(tmp_path / "there", "errseg", 'for word in "$@"; do echo "[$word]"; done\n')
  assert run(["bash", "-c", command], tmp_path / "there", cwd=tmp_path).stdout.splitlines() == [
    "[train]",
    "[--workdir=a b;c]",
  ]


def test_tpu_vm_sends_no_workdirs(tmp_path):
  tool(tmp_path / "bin", "gcloud", 'if [[ $4 == scp ]]; then tar -tzf "$5"; fi\n')
  done = run([LAUNCH / "tpu_vm.sh", "setup"], tmp_path / "bin", TPU="pod", ZONE="here")
  assert done.returncode == 0, done.stderr
  names = done.stdout.splitlines()
  assert "./pyproject.toml" in names
  assert not [name for name in names if name.startswith(("./.git/", "./.venv", "./runs/"))]
