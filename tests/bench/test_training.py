import json

import pytest

from errseg_jax import commands
from errseg_jax.bench import command, crf, reading, roofline, training
from errseg_jax.cli import main
from errseg_jax.errors import UserError


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(roofline, "COPIED", 2**10)
  monkeypatch.setitem(roofline.SIDE, "cpu", 32)
  monkeypatch.setattr(training, "ROUNDS", 2)
  monkeypatch.setattr(reading, "BATCHES", 2)
  monkeypatch.setattr(crf, "ROUNDS", 1)


def test_a_step_of_every_stage_is_timed(tiny_config, capsys, monkeypatch):
  monkeypatch.setattr(commands, "required_config", lambda args: tiny_config())
  assert main(["bench", "--what=train", "--json"]) == 0
  cost = json.loads(capsys.readouterr().out)
  assert [row["stage"] for row in cost["rows"]] == list(tiny_config().order)
  for row in cost["rows"]:
    assert row["images_per_s"] == pytest.approx(row["batch_size"] / row["ms"] * 1000)
    assert row["share_of_flops"] == pytest.approx(row["gflop"] * 1e12 / row["ms"] / cost["flops_per_second"])
    assert row["step_GB"] > 0
  command.show(cost, training.table, False)
  assert "training steps" in capsys.readouterr().out
  assert main(["bench", "--what=train", "--size=64x64"]) == 2
  assert "leave out --size" in capsys.readouterr().err


def test_a_loss_that_names_the_confusion_gets_its_matrix(tiny_config):
  cost = training.training_cost(
    tiny_config(
      order=("semantic", "control"), semantic_loss__pixel__name="confusion", semantic_loss__pixel__refresh=2
    )
  )
  assert [row["stage"] for row in cost["rows"]] == ["semantic", "control"]


def test_images_are_read_once_for_stages_that_share_them(tiny_config, capsys, monkeypatch):
  monkeypatch.setattr(commands, "required_config", lambda args: tiny_config())
  assert main(["bench", "--what=data", "--json"]) == 0
  cost = json.loads(capsys.readouterr().out)
  assert cost["rows"][0]["stage"] == "semantic"
  for row in cost["rows"]:
    assert row["images_per_s"] > 0
    assert list(row["parts"]) == ["image", "label", "augment", "batch", "device"]
    assert row["parts"]["image"] > 0
    assert row["parts"]["augment"] > 0
  command.show(cost, reading.table, False)
  printed = capsys.readouterr().out
  assert "images/s" in printed
  assert "decode image" in printed


def test_the_crf_is_timed_without_a_config(capsys):
  assert main(["bench", "--what=crf", "--size=24x32", "--json"]) == 0
  cost = json.loads(capsys.readouterr().out)
  assert [row["crf"] for row in cost["rows"]] == [*crf.CRFS]
  for row in cost["rows"]:
    assert row["iteration_ms"] == pytest.approx(row["ms"] / crf.ITERATIONS)
  command.show(cost, crf.table, False)
  assert "dense" in capsys.readouterr().out


def test_all_goes_on_without_pytorch(tiny_config, capsys, monkeypatch):
  def missing(height, width):
    raise UserError("it is missing")

  def small(what, bench):
    return command.Bench(lambda *args: {"of": what}, bench.table, bench.image_size)

  for benches in (command.OF_CONFIG, command.OF_NOTHING):
    for what, bench in benches.items():
      monkeypatch.setitem(benches, what, small(what, bench))
  monkeypatch.setitem(command.OF_NOTHING, "pytorch", command.Bench(missing, lambda found: None, "32x32"))
  monkeypatch.setattr(commands, "required_config", lambda args: tiny_config())
  assert main(["bench", "--what=all", "--json"]) == 0
  found = json.loads(capsys.readouterr().out)
  assert set(found) == {*command.OF_CONFIG, *command.OF_NOTHING}
  assert found["crf"] == {"of": "crf"}
  assert found["pytorch"] == {"missing": "it is missing"}
