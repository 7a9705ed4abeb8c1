import json

import pytest

from errseg_jax import commands
from errseg_jax.assemble import with_defaults
from errseg_jax.bench import command, crf, reading, roofline, training
from errseg_jax.cli import main
from errseg_jax.errors import UserError
from errseg_jax.prepare.cache import cache


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


def test_a_cache_stands_beside_the_network_at_work(trained, tiny_config, tmp_path, monkeypatch):
  monkeypatch.setattr(training, "LOOPS", 2)
  config = tiny_config(error_branch__prior="detail", order=("detail", "error"))
  config.segmenter.init = str(trained)
  config = with_defaults(config)
  cache(config, tmp_path / "features", 1)
  config.loader.features = str(tmp_path / "features")
  cost = training.training_cost(config)
  assert [(row["stage"], row["features"]) for row in cost["rows"]] == [
    (stage, features) for stage in ("detail", "error") for features in ("network", "cache")
  ]
  for network, cached in zip(cost["rows"][::2], cost["rows"][1::2], strict=True):
    assert cached["gflop"] < network["gflop"]  # the network does not run
    assert cached["faster"] > 0
    assert min(network["loop_ms"], cached["loop_ms"]) > 0
  command.show(cost, training.table, False)


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
