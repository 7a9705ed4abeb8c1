"""What a run would take elsewhere."""

import json

import jax
import pytest

from errseg_jax import cli
from errseg_jax.assemble import with_defaults
from errseg_jax.errors import UserError
from errseg_jax.planning.accelerators import ACCELERATORS, Accelerator, parse
from errseg_jax.planning.plan import plan, stage_row
from errseg_jax.train import memory
from errseg_jax.train.trainer import Trainer


@pytest.mark.parametrize(
  ("text", "name", "count"),
  [
    ("v5e-64", "v5e", 64),
    ("v4-8", "v4", 4),
    ("h100x8", "h100", 8),
    ("H200", "h200", 1),
    ("v5p-16", "v5p", 8),
  ],
)
def test_names_of_devices(text, name, count):
  assert parse(text) == (name, ACCELERATORS[name], count)


@pytest.mark.parametrize("text", ["", "tpu", "v5e-0", "v4-3", "h100x", "v5e64", "h100x8x2", "-4"])
def test_unknown_devices(text):
  with pytest.raises(UserError, match="--devices="):
    parse(text)


class Stage:
  name, batch_size, steps = "semantic", 4, 7200


def test_the_slowest_of_three_bounds_a_step():
  device = Accelerator("one", 10e9, {"float32": 100.0, "bfloat16": 400.0}, 50.0, 10.0, per_host=8)
  program = {"flops": 400.0, "bytes": 100.0, "sent": 5.0, "bytes_held": 8e9}
  row = stage_row(Stage, program, 64.0, device, 8, "float32")
  assert (row["bound"], row["steps_per_s"], row["batch_size"]) == ("arithmetic", 0.25, 32)
  assert row["hours"] == 8.0
  assert row["epochs_per_hour"] == 0.25 * 32 * 3600 / 64
  assert row["fits"]
  assert (
    stage_row(Stage, program, 64.0, device, 8, "bfloat16")["bound"] == "memory"
  )  # 2 s each: the first is taken
  slow = stage_row(Stage, program | {"sent": 50.0}, 64.0, device, 8, "float32")
  assert (slow["bound"], slow["steps_per_s"]) == ("links", 1 / 8.75)
  assert stage_row(Stage, program | {"sent": 50.0}, 64.0, device, 1, "float32")["bound"] == "arithmetic"
  assert not stage_row(Stage, program | {"bytes_held": 9.5e9}, 64.0, device, 8, "float32")["fits"]


def test_memory_is_that_of_the_step_that_would_run(tiny_config, tmp_path, monkeypatch):
  config = with_defaults(tiny_config(order=("semantic", "error"), stages__semantic__batch_size=4))
  config.stages.error.batch_size = 4
  seen = {}

  def compiled_step(step, stage, *arguments):
    program = step.lower(*arguments).compile()
    seen[stage.name] = memory.step_bytes(program)
    return program

  monkeypatch.setattr("errseg_jax.train.loop.compiled_step", compiled_step)
  one = config.copy_and_resolve_references()
  for name in config.order:
    one.stages[name].batch_size, one.stages[name].steps = 2, 1
  Trainer(one, tmp_path / "run").run()
  result = plan(config, "v5e-2", price=3.0)
  assert {row["stage"]: row["memory_GB"] for row in result["rows"]} == pytest.approx(
    {name: count / 1e9 for name, count in seen.items()}, rel=0.01
  )
  assert result["cost"] == pytest.approx(6.0 * result["hours"])
  assert result["estimate"]
  assert all(row["sent_MB"] > 0 for row in result["rows"])


def test_the_command_tells_and_prints_json(tiny_config, tmp_path, capsys):
  config = tiny_config(order=("semantic",))
  (tmp_path / "config.json").write_text(config.to_json())
  (tmp_path / "config.py").write_text(
    "from errseg_jax.train.workdir import load_config\n\n\n"
    f"def get_config(arg=None):\n  return load_config({str(tmp_path)!r})\n"
  )
  words = ["plan", f"--config={tmp_path / 'config.py'}"]
  assert cli.main([*words, "--devices=h100x2", "--price=2"]) == 0
  out = " ".join(capsys.readouterr().out.split())
  assert "2 x NVIDIA H100 SXM, float32, at best" in out
  assert "that of the steps is an estimate: compiled for a CPU" in out
  assert "cores to keep up" in out
  assert "at 2.0 for a device and hour" in out
  assert cli.main([*words, "--devices=h100x2", "--json"]) == 0
  assert json.loads(capsys.readouterr().out)["count"] == 2
  for flags, said in [
    ([], "--devices=NAME is needed"),
    (["--devices=h100x3"], "stages.semantic.batch_size=8 is not a multiple of 3 devices"),
    (["--devices=h100", "--price=much"], "--price='much' is not a number"),
    (["--devices=h100", "--price=-1"], "--price=-1.0 must be a number from 0 on"),
    (["--devices=h100", "--price=nan"], "--price=nan must be a number from 0 on"),
  ]:
    assert cli.main([*words, *flags]) == 2
    assert said in capsys.readouterr().err


def test_a_step_that_does_not_fit_is_told(tiny_config, capsys, monkeypatch):
  tiny = Accelerator("small", 1e3, {"float32": 1e12}, 1e9, 1e9, per_host=1)
  monkeypatch.setitem(ACCELERATORS, "l4", tiny)
  plan(with_defaults(tiny_config(order=("semantic",))), "l4")
  assert "! semantic does not fit" in capsys.readouterr().out
  assert jax.device_count() == 8  # compiling for others leaves ours as they are
