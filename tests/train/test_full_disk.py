"""A disk that is full, or cannot be written: one line, and what was saved stays."""

import csv
import errno
import os
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from errseg_jax.assemble import with_defaults
from errseg_jax.cli import main
from errseg_jax.errors import UserError, disk_trouble
from errseg_jax.train.checkpoints import StageCheckpoints
from errseg_jax.train.loop import Stopped
from errseg_jax.train.trainer import Trainer
from tests.conftest import snapshot
from tests.train.test_resume import CONFIG


@pytest.fixture
def small_disk(tmp_path):
  """(megabytes) -> a folder on a file system of that size."""
  mounted = []

  def mount(size):
    folder = tmp_path / f"disk{len(mounted)}"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}m", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
      pytest.skip("no right to mount a small file system")
    mounted.append(folder)
    return folder

  yield mount
  for folder in mounted:
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize(
  ("error", "reason"),
  [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "no space left on device"),
    (OSError(errno.ESTALE, os.strerror(errno.ESTALE), "/mnt/a"), "stale file handle"),
    (
      ValueError("RESOURCE_EXHAUSTED: Failed to write 7 bytes: No space left on device"),
      "no space left on device",
    ),
    (RuntimeError("Read-only file system [os_error_code='30']"), "read-only file system"),
    (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)), ""),
    (ValueError("shapes differ"), ""),
  ],
)
def test_what_a_disk_refuses(error, reason):
  assert disk_trouble(error) == reason


def test_a_full_disk_keeps_the_checkpoint_before(small_disk, tiny_config, monkeypatch, capfd):
  folder = small_disk(8)
  config = tiny_config(order=("semantic",), stages__semantic__steps=4, stages__semantic__save_every=1)
  config.stages.semantic.eval_every = 0
  with monkeypatch.context() as patch:
    asked = iter((False, True))
    patch.setattr("errseg_jax.train.loop.StopSignal.came", lambda self: next(asked))
    with pytest.raises(Stopped):
      Trainer(with_defaults(config), folder / "run").run()
  filler = fill(folder, leave=200_000)
  with pytest.raises(UserError) as caught:
    Trainer(with_defaults(config), folder / "run").run()
  said = str(caught.value)
  assert "a checkpoint cannot be written (no space left on device); that of step 2 is whole" in said
  assert "Traceback" not in capfd.readouterr().err
  saved = StageCheckpoints(folder / "run", "semantic", 4, "last")
  assert saved.manager.latest_step() == 2
  filler.unlink()
  Trainer(with_defaults(config), folder / "run").run()
  assert StageCheckpoints(folder / "run", "semantic", 4, "last").complete()


def fill(folder, leave=0):
  """A file that takes what is left of a disk."""
  path = folder / "filler"
  path.write_bytes(bytes(shutil.disk_usage(folder).free // 4096 * 4096 - leave))
  return path


def test_a_full_disk_while_predicting(small_disk, trained, tmp_path, capsys):
  images, folder = tmp_path / "images", small_disk(1)
  images.mkdir()
  rng = np.random.default_rng(0)
  for i in range(6):
    Image.fromarray(rng.integers(0, 256, (256, 320, 3), np.uint8)).save(images / f"{i}.png")
  words = ["predict", f"--workdir={trained}", f"--output={folder / 'out'}", str(images)]
  assert main(words) == 2
  assert "no space left on device" in capsys.readouterr().err
  assert not (folder / "out" / "predictions.csv").exists()
  for path in (folder / "out").glob("*.png"):
    Image.open(path).load()  # none is half written
  subprocess.run(["mount", "-o", "remount,size=20m", str(folder)], check=True)
  assert main(words) == 0
  with (folder / "out" / "predictions.csv").open() as file:
    assert len(list(csv.reader(file))) == 7


def test_a_full_disk_while_reporting(small_disk, trained, tmp_path, capsys):
  folder = small_disk(8)
  shutil.copytree(trained, folder / "run")
  assert main(["evaluate", f"--workdir={folder / 'run'}"]) == 0
  fill(folder)
  capsys.readouterr()
  assert main(["report", f"--workdir={folder / 'run'}"]) == 2
  assert "no space left on device" in capsys.readouterr().err
  assert not (folder / "run" / "report.html").exists()


def test_a_disk_that_only_reads(small_disk, trained, tiny_config, tmp_path, monkeypatch, capfd):
  folder = small_disk(20)
  config = tiny_config(order=("semantic",), stages__semantic__steps=4, stages__semantic__save_every=1)
  with monkeypatch.context() as patch:
    asked = iter((False, True))
    patch.setattr("errseg_jax.train.loop.StopSignal.came", lambda self: next(asked))
    with pytest.raises(Stopped):
      Trainer(with_defaults(config), folder / "run").run()
  shutil.copytree(trained, folder / "trained")
  (tmp_path / "config.json").write_text(config.to_json())
  (tmp_path / "config.py").write_text(CONFIG.format(folder=str(tmp_path)))
  subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
  before = snapshot(folder)
  monkeypatch.setattr("errseg_jax.inference.evaluator.Evaluator.run", None)  # it ends before
  for words in (
    ["train", f"--config={tmp_path / 'config.py'}", f"--workdir={folder / 'run'}"],
    ["train", f"--config={tmp_path / 'config.py'}", f"--workdir={folder / 'new'}"],
    ["evaluate", f"--workdir={folder / 'trained'}"],
    ["confusion", f"--workdir={folder / 'trained'}"],
    ["tune", f"--workdir={folder / 'trained'}", "--config.crf.iterations=1"],
  ):
    capfd.readouterr()
    assert main(words) == 2, words
    (line,) = [row for row in capfd.readouterr().err.splitlines() if row.startswith("errseg: ")]
    assert str(folder) in line
  subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
  assert snapshot(folder) == before
