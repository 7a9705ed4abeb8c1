import jax
import jax.numpy as jnp
import pytest

from errseg_jax.errors import UserError
from errseg_jax.train import memory
from errseg_jax.train.memory import device_bytes, step_bytes
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
  for hint in ("stages.semantic.batch_size=", "transform.crop_size", "train.remat=True", "bfloat16"):
    assert hint in str(caught.value)
  assert not [*tmp_path.rglob("state")]  # no checkpoint of a step that never was
