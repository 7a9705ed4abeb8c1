"""Memory does not grow with the images that are evaluated."""

import gc
import os
import pathlib

import numpy as np
import pytest

from errseg_jax import assemble
from errseg_jax.inference.choice import Choice
from errseg_jax.inference.evaluator import make_evaluator
from errseg_jax.inference.statistics import make_counter
from errseg_jax.sharding import make_mesh, place
from errseg_jax.train.restore import resting_variables
from errseg_jax.train.workdir import load_config

IMAGES, WARM = 20_000, 2_000


class Generated:
  """Images that no disk holds."""

  def __init__(self, count):
    self.names = [f"image{i}" for i in range(count)]

  def __len__(self):
    return len(self.names)

  def __getitem__(self, index):
    rng = np.random.default_rng(int(index))
    return {
      "image": rng.integers(0, 256, (32, 32, 3), np.uint8),
      "label": rng.integers(0, 3, (32, 32), np.uint8),
      "name": self.names[index],
    }


def resident():
  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
  return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.proof
def test_host_memory_while_evaluating(trained):
  config = load_config(trained)
  config.loader.eval_batch_size = 16
  model = assemble.model(config, 3)
  mesh = make_mesh(1)
  variables, choice = place(resting_variables(config, trained, model), mesh), Choice.load(trained)
  evaluator, counter = make_evaluator(config, mesh), make_counter(model, wanted=("error", "detail"))
  totals = evaluator.run(counter, variables, Generated(WARM), choice, per_image=True)
  gc.collect()
  before = resident()
  totals = evaluator.run(counter, variables, Generated(IMAGES), choice, per_image=True, totals=totals)
  grown = (resident() - before) / 2**20
  print(f"{IMAGES} images: {before / 2**20:.0f} MiB before, {grown:+.0f} MiB")
  assert totals.images == IMAGES + WARM
  assert grown < 50
