"""A data folder that goes away in mid-run, as one on a network does: one line, and the run goes on once it is back."""

import shutil
import subprocess

import jax
import numpy as np
import pytest

from errseg_jax.assemble import with_defaults
from errseg_jax.errors import UserError
from errseg_jax.train.checkpoints import StageCheckpoints
from errseg_jax.train.restore import load
from errseg_jax.train.trainer import Trainer

STEPS = 12


class Folder:
  """Goes away by another name."""

  def __init__(self, path, data):
    self.path = path
    shutil.copytree(data, path)

  def vanish(self):
    self.path.rename(self.path.with_name("away"))

  def come_back(self):
    self.path.with_name("away").rename(self.path)

  close = staticmethod(lambda: None)


class Mount(Folder):
  """Goes away as a share does whose server is gone: files that are open stay, no other can be found."""

  def __init__(self, path, data):
    self.path, self.data = path, data
    path.mkdir()
    self.come_back()

  def come_back(self):
    if shutil.which("mount") is None or subprocess.run(["mount", "--bind", self.data, self.path]).returncode:
      pytest.skip("no right to mount a folder")

  def vanish(self):
    subprocess.run(["umount", "--lazy", self.path], check=True)

  close = vanish


def steps_until(number, then):
  """In place of the look for a signal, which comes once a step: `then` is called at one of them."""
  seen = 0

  def came(_):
    nonlocal seen
    seen += 1
    if seen == number:
      then()
    return False

  return came


@pytest.mark.parametrize("kind", [Folder, Mount])
def test_a_run_whose_images_vanish_goes_on_once_they_are_back(
  kind, shared_data, tiny_config, tmp_path, monkeypatch
):
  images = kind(tmp_path / "data", shared_data)
  try:
    config = tiny_config(order=("semantic",), stages__semantic__steps=STEPS, stages__semantic__save_every=2)
    config.stages.semantic.eval_every = 0
    config.stages.semantic.batch_size = 4
    config.data.root = str(images.path)
    config = with_defaults(config)
    Trainer(config, tmp_path / "whole").run()
    with monkeypatch.context() as patch:
      patch.setattr("errseg_jax.train.loop.StopSignal.came", steps_until(3, images.vanish))
      with pytest.raises(UserError) as caught:
        Trainer(config, tmp_path / "cut").run()
    assert str(images.path) in str(caught.value)
    saved = StageCheckpoints(tmp_path / "cut", "semantic", STEPS, "last")
    assert 0 < saved.manager.latest_step() < STEPS
    with pytest.raises(UserError, match=str(images.path)):  # while it is still away
      Trainer(config, tmp_path / "cut").run()
    images.come_back()
    Trainer(config, tmp_path / "cut").run()
    whole, cut = (load(tmp_path / name).variables for name in ("whole", "cut"))
    jax.tree.map(np.testing.assert_array_equal, whole, cut)
  finally:
    images.close()
