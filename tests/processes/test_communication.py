"""What the devices tell each other in a step: the trained groups' gradients and statistics, however many images."""

import json
import math
import os
import re
import subprocess
import sys

import pytest

PROGRAM = """
import json, pathlib, sys
from errseg_jax.models.backbones import resnet
resnet.BLOCKS[10] = (1, 1, 1, 1)
import jax
from errseg_jax.assemble import with_defaults
from errseg_jax.config_flags import load
from errseg_jax.train import loop
from errseg_jax.train.trainer import Trainer


class Enough(Exception):
  pass


def show(step, stage, state, *rest):
  sizes = {key: sum(x.size for x in jax.tree.leaves(value)) for key, value in state.variables.items()}
  print(json.dumps([sizes, step.lower(state, *rest).compile().as_text()]))
  raise Enough


loop.compiled_step = show
try:
  Trainer(with_defaults(load(sys.argv[1], sys.argv[3:])), pathlib.Path(sys.argv[2])).run()
except Enough:
  pass
"""
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
SIZES = {
  "f64": 8,
  "f32": 4,
  "bf16": 2,
  "f16": 2,
  "s64": 8,
  "u64": 8,
  "s32": 4,
  "u32": 4,
  "pred": 1,
  "s8": 1,
  "u8": 1,
}


def sent(text):
  """{collective: bytes of its results} of an optimised program."""
  found = dict.fromkeys(COLLECTIVES, 0)
  for result, name in re.findall(rf"= (.*?) ({'|'.join(COLLECTIVES)})(?:-start)?\(", text):
    for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", result):
      found[name] += SIZES[kind] * math.prod(int(n) for n in shape.split(",") if n)
  return found


@pytest.fixture(scope="module")
def steps(config_file, trained, tmp_path_factory):
  """(devices, images, stage) -> (sizes of the trained arrays, bytes sent)."""
  done = {}

  def run(devices, images, kind="semantic"):
    if (devices, images, kind) not in done:
      workdir = tmp_path_factory.mktemp("run")
      given = {} if kind == "semantic" else {"segmenter__init": str(trained)}
      config = config_file(order=(kind,), **given)
      # Maps of 4x4: every tap of the atrous convolutions sees something, and has a gradient.
      flags = [f"--config.stages.{kind}.batch_size={images}", "--config.transform.crop_size=(64,64)"]
      env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
      words = [sys.executable, "-c", PROGRAM, str(config), str(workdir), *flags]
      out = subprocess.run(words, env=env, capture_output=True, text=True, timeout=300)
      assert out.returncode == 0, out.stderr[-3000:]
      sizes, text = json.loads(out.stdout.splitlines()[-1])
      done[devices, images, kind] = sizes, sent(text)
    return done[devices, images, kind]

  return run


def test_one_device_sends_nothing(steps):
  _, bytes_ = steps(1, 8)
  assert not any(bytes_.values())


@pytest.mark.parametrize(("devices", "images"), [(8, 8), (8, 32), (64, 64)])
def test_bytes_do_not_grow_with_images_or_devices(steps, devices, images):
  sizes, bytes_ = steps(devices, images)
  gradients, statistics = 4 * sizes["params"], 4 * sizes["batch_stats"]
  print(
    f"{devices} devices, {images} images: {bytes_}, gradients {gradients}, running statistics {statistics}"
  )
  assert [name for name, count in bytes_.items() if count] == ["all-reduce"]
  # Batch normalisation: two sums forward, two of its gradient backward; a few numbers of the loss.
  assert gradients <= bytes_["all-reduce"] <= gradients + 3 * statistics + 4096
  assert bytes_ == steps(8, 8)[1]


KINDS = [
  "error",
  pytest.param("detail", marks=pytest.mark.proof),
  pytest.param("cascade", marks=pytest.mark.proof),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_sends_what_it_trains(steps, kind):
  sizes, bytes_ = steps(8, 8, kind)
  gradients, statistics = 4 * sizes["params"], 4 * sizes.get("batch_stats", 0)
  print(f"{kind}: {bytes_}, gradients {gradients}, running statistics {statistics}")
  assert gradients <= bytes_["all-reduce"] <= gradients + 3 * statistics + 4096
  assert [name for name, count in bytes_.items() if count] == ["all-reduce"]
