"""What `errseg plan` says of memory, against what a process really takes."""

import json
import subprocess
import sys

import pytest

# In a process of its own: memory that earlier programs have freed would be used again.
MEASURE = """
import ctypes, functools, json, pathlib, sys

import jax
import numpy as np

from errseg_jax.assemble import with_defaults
from errseg_jax.bench.model import ordinary
from errseg_jax.bench.training import copy_of
from errseg_jax.planning.program import step_program
from errseg_jax.sharding import place, shard_batch
from errseg_jax.structs import Batch
from errseg_jax.train.given import abstract_variables
from errseg_jax.train.memory import step_bytes
from errseg_jax.train.optim import make_optimizer
from errseg_jax.train.state import TrainState, split
from errseg_jax.train.step import make_step
from errseg_jax.train.trainer import Trainer
from errseg_jax.train.workdir import load_config

jax.config.update("jax_platforms", "cpu")


def held(key):
  with open("/proc/self/status") as file:
    return 1024 * next(int(line.split()[1]) for line in file if line.startswith(key))


trainer = Trainer(with_defaults(load_config(pathlib.Path(sys.argv[1]))), pathlib.Path())
config, stage = trainer.config, trainer.stages[0]
planned = step_program(trainer, stage)["bytes_held"]
tx = make_optimizer(stage.optimizer, stage.steps, split(abstract_variables(trainer.model), stage.groups)[0]["params"])
step = make_step(trainer.model_of(stage), stage, trainer.losses[stage.name], tx, config.seed, config.train.remat)


def arguments():
  variables = abstract_variables(trainer.model)
  variables = jax.tree.map(lambda leaf: jax.numpy.full(leaf.shape, 0.01, leaf.dtype), variables)
  trained, frozen = split(variables, stage.groups)
  state = TrainState.create(copy_of(trained), tx, stage.ema > 0)
  shape = (stage.batch_size, *config.transform.crop_size)
  return state, frozen, Batch(image=np.zeros((*shape, 3), np.uint8), label=np.zeros(shape, np.uint8))


compiled = step.lower(*jax.eval_shape(arguments)).compile()
ctypes.CDLL("libc.so.6").malloc_trim(0)
before = held("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
  file.write("5")
state, frozen, batch = arguments()
for _ in range(3):
  state, metrics = compiled(state, frozen, batch)
jax.block_until_ready(state)
print(json.dumps({"planned": planned, "measured": held("VmHWM") - before}))
"""


@pytest.mark.proof
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("depth", "crop", "batch"), [(18, 257, 4), (50, 321, 2)])
def test_planned_memory_is_within_30_percent_of_measured(tiny_config, tmp_path, depth, crop, batch, dtype):
  backbone = {"name": "resnet", "depth": depth, "output_stride": 16}
  config = tiny_config(order=("semantic",), segmenter__backbone=backbone, dtype=dtype)
  config.transform.crop_size = (crop, crop)
  config.stages.semantic.batch_size = batch
  (tmp_path / "config.json").write_text(config.to_json())
  command = [sys.executable, "-c", MEASURE, str(tmp_path)]
  out = subprocess.run(command, capture_output=True, text=True, timeout=900)
  assert out.returncode == 0, out.stderr[-2000:]
  found = json.loads(out.stdout.splitlines()[-1])
  share = found["planned"] / found["measured"]
  print(f"ResNet-{depth} {crop} x{batch} {dtype}: planned {found['planned'] / 1e9:.2f} GB, "
        f"measured {found['measured'] / 1e9:.2f} GB, ratio {share:.2f}")  # fmt: skip
  assert 0.7 < share < 1.3
