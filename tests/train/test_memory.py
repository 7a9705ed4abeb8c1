import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals

from errseg_jax import assemble
from errseg_jax.errors import UserError
from errseg_jax.train import memory
from errseg_jax.train.memory import device_bytes, step_bytes
from errseg_jax.train.step import make_loss
from errseg_jax.train.trainer import Trainer


def test_the_bytes_of_a_program_are_its_arguments_results_and_what_lies_between():
  x = jnp.zeros((256, 1024), jnp.float32)  # 1 MiB

  def between(x):
    y = jnp.fft.fft(x)  # 2 MiB, complex, and no loop that could be fused away
    return jnp.abs(jnp.fft.ifft(y)).astype(jnp.float32)

  megabytes = step_bytes(jax.jit(between).lower(x).compile()) / 2**20
  assert 4 <= megabytes <= 8
  alone = step_bytes(jax.jit(lambda x: x + 1).lower(x).compile())
  donated = step_bytes(jax.jit(lambda x: x + 1, donate_argnums=0).lower(x).compile())
  assert (alone, donated) == (2 * x.nbytes, x.nbytes)


def test_the_memory_of_this_machine_is_known():
  assert device_bytes(jax.devices()[0]) > 2**27


def test_a_step_too_large_is_refused_before_it_runs(tiny_config, tmp_path, monkeypatch):
  monkeypatch.setattr(memory, "device_bytes", lambda device: 2**20)
  with pytest.raises(
    UserError, match=r"stage semantic: a step needs \d+\.\d\d GiB of memory and cpu 0 has"
  ) as caught:
    Trainer(tiny_config(), tmp_path).run()
  for hint in ("stages.semantic.batch_size=", "transform.crop_size", "bfloat16"):
    assert hint in str(caught.value)
  assert not [*tmp_path.rglob("state")]  # no checkpoint of a step that never was


def test_remat_gives_the_same_gradients_and_keeps_less_for_them(bench, capsys):
  """What the backward pass keeps is read off the program; XLA on CPU computes nothing again, whatever it is told."""
  run = bench("semantic", segmenter__backbone={"name": "resnet", "depth": 18, "width": 4})
  loss, (batch,) = assemble.loss(run.config, "semantic"), run.batches(1)
  params, stats = (run.state.variables[kind] for kind in ("params", "batch_stats"))
  rng, found, kept = jax.random.key(0), {}, {}
  for remat in (False, True):
    function = make_loss(run.model, run.stage, loss, remat)
    found[remat] = jax.jit(jax.grad(function, has_aux=True))(params, stats, run.frozen, batch, rng)
    print_saved_residuals(lambda p, f=function: f(p, stats, run.frozen, batch, rng)[0], params)
    shapes = re.findall(r"f32\[([\d,]+)\] output of", capsys.readouterr().out)
    kept[remat] = sum(math.prod(map(int, shape.split(","))) for shape in shapes)
  for a, b in zip(jax.tree.leaves(found[False]), jax.tree.leaves(found[True]), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  assert 0 < kept[True] < 0.5 * kept[False]
