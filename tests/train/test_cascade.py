"""A cascade in training: one stage for all branches, and what it leaves serves every command."""

import csv
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from errseg_jax import assemble
from errseg_jax.assemble import with_defaults
from errseg_jax.bench.early_exit import early_exit
from errseg_jax.cli import main
from errseg_jax.config import cascade
from errseg_jax.errors import UserError
from errseg_jax.inference.choice import Choice
from errseg_jax.inference.statistics import make_counter
from errseg_jax.metrics.segmentation import segmentation_scores
from errseg_jax.models.error_aware import infer
from errseg_jax.train.restore import load, trained_variables
from errseg_jax.train.stages import plan
from errseg_jax.train.trainer import Trainer
from errseg_jax.train.workdir import load_config
from errseg_jax.train.writers import read_metrics


def cascaded(config):
  """A tiny config's cascade."""
  config = cascade(config, 16)
  config.segmenter.backbone.output_stride = 8
  config.segmenter.head.features = 16
  return config


@pytest.fixture(scope="module")
def run(tiny_config, tmp_path_factory):
  """The workdir of a finished cascade."""
  workdir = tmp_path_factory.mktemp("cascade") / "run"
  config = cascaded(tiny_config(stages__cascade__steps=40, stages__cascade__eval_every=20))
  Trainer(with_defaults(config), workdir).run()
  return workdir


def test_one_stage_trains_all_groups(tiny_config):
  (stage,) = plan(cascaded(tiny_config()))
  assert stage.groups == ("segmenter", "error", "detail")
  assert (stage.source, stage.score) == ("semantic", "fused/mIoU")


@pytest.mark.parametrize("source", ["holdout", "crossfit"])
def test_its_errors_are_its_own(source, tiny_config):
  with pytest.raises(UserError, match="error_source"):
    plan(cascaded(tiny_config(splits__error_source=source)))


@pytest.mark.parametrize(
  ("key", "value", "says"),
  [
    ("detail_branch.bins", (0,), "bins"),
    ("detail_branch.features", 0, "from 1 on"),
    ("detail_branch.bin_features", -1, "from 0 on"),
    ("error_branch.features", -3, "at least 0"),
    ("error_branch.name", "error", "at least 2"),
    ("detail_branch.bins", tuple(range(1, 70)), "as many channels"),
  ],
)
def test_branches_of_nothing_are_refused(key, value, says, tiny_config, tmp_path):
  config = with_defaults(cascaded(tiny_config()))
  section, _, last = key.partition(".")
  config[section][last] = value
  with pytest.raises(UserError, match=says):
    Trainer(config, tmp_path).run()


def test_an_early_exit_wants_a_cascade(tiny_config):
  config = tiny_config(detail_branch={"name": "pyramid", "features": 8}, early_exit__threshold=0.3)
  with pytest.raises(UserError, match="wants a cascade"):
    assemble.model(with_defaults(config), 3)


def test_a_checkpoint_is_scored_by_what_is_handed_out(run):
  rows = [row for row in read_metrics(run / "metrics.jsonl") if "choose/fused/mIoU" in row]
  trainer = Trainer(load_config(run), run)
  variables = trained_variables(trainer.config, run, trainer.model)
  scores = trainer.make_score(trainer.stages[0], {})(variables, 1).scores
  counter = make_counter(trainer.model, wanted=("error", "detail"), fusions=("refined",))
  counts = trainer.evaluator.run(counter, variables, trainer.sources["choose"], Choice()).counts
  refined = segmentation_scores(counts["confusion/refined"], ["a", "b", "c"])["mIoU"]
  assert scores["fused/mIoU"] == pytest.approx(refined)
  assert max(row["choose/fused/mIoU"] for row in rows) == pytest.approx(refined)


@pytest.mark.parametrize("order", [("semantic", "cascade"), ("cascade", "error"), ("cascade", "control")])
def test_it_stands_alone(order, tiny_config):
  with pytest.raises(UserError, match="stands alone"):
    plan(tiny_config(order=order))


def test_checkpoints_are_scored_without_early_exit(tiny_config, tmp_path):
  trainer = Trainer(with_defaults(cascaded(tiny_config(early_exit__threshold=0.3))), tmp_path)
  assert trainer.model.early_exit is not None
  assert trainer.model_of(trainer.stages[0]).early_exit is None


def test_what_only_a_cascade_refines_is_asked_of_no_other_network(tiny_config, tmp_path):
  config = with_defaults(tiny_config(choose__fusions=("refined",)))
  with pytest.raises(UserError, match="'refined' is what a cascade"):
    Trainer(config, tmp_path)


def write_blocks(root, rng):
  """Four images of blocks of 16 x 16 pixels, each of one of three colours."""
  colours = np.array([(60, 60, 60), (200, 60, 50), (60, 60, 220)])
  for split in ("train", "val", "choose"):
    for folder in ("images", "labels"):
      (root / folder / split).mkdir(parents=True)
    for i in range(4):
      label = np.kron(rng.integers(0, 3, (4, 4)), np.ones((16, 16), int)).astype(np.uint8)
      image = (colours[label] + rng.normal(0, 10, (64, 64, 3))).clip(0, 255).astype(np.uint8)
      Image.fromarray(image).save(root / f"images/{split}/{i}.png")
      Image.fromarray(label).save(root / f"labels/{split}/{i}.png")
  return root


@pytest.mark.slow
def test_four_images_are_learned_by_heart_and_every_loss_falls(tiny_config, tmp_path):
  config = cascaded(tiny_config(data__root=str(write_blocks(tmp_path / "data", np.random.default_rng(0)))))
  config.transform.update(
    crop_size=(64, 64), scale_min=1.0, scale_max=1.0, rotation=0.0, flip=False, photometric=0.0
  )
  config.error_branch.dropout = config.detail_branch.dropout = config.segmenter.head.dropout = 0.0
  config.stages.cascade.update(steps=200, batch_size=4, eval_every=0)
  config.train.log_every = 10
  Trainer(with_defaults(config), tmp_path / "run").run()
  rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "train/loss" in row]
  for name in ("coarse", "attention", "refined"):
    assert rows[-1][f"train/{name}"] < 0.2 * rows[0][f"train/{name}"]
  assert main(["evaluate", f"--workdir={tmp_path / 'run'}", "--split=train", "--config.num_devices=1"]) == 0
  results = json.loads((tmp_path / "run" / "results_train.json").read_text())
  assert results["fused"]["aAcc"] > 99


def test_the_refined_labels_are_what_is_handed_out(run):
  assert Choice.load(run).fusion == "refined"
  network = load(run)
  image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
  padded = np.concatenate([image, np.full((32, 16, 3), assemble.pad_value(network.config), np.uint8)], 1)
  outputs = infer(network.model, network.variables, padded[None])
  a = jax.nn.sigmoid(outputs.error)[..., None]
  expected = (a * jax.nn.softmax(outputs.detail) + (1 - a) * jax.nn.softmax(outputs.semantic)).argmax(-1)
  got = network.predict(image)
  assert (got.labels == np.asarray(expected)[0, :, :48]).mean() > 0.999
  assert (got.semantic_labels == np.asarray(outputs.semantic.argmax(-1))[0, :, :48]).all()


def test_every_command_takes_it(run, own_data, tmp_path):
  workdir = tmp_path / "run"
  shutil.copytree(run, workdir)
  one = "--config.num_devices=1"
  assert main(["evaluate", f"--workdir={workdir}", one]) == 0
  results = json.loads((workdir / "results.json").read_text())
  for system in ("semantic", "detail", "fused"):
    assert {"mIoU", "aAcc", "mAcc"} <= results[system].keys()
  for score in ("AUROC", "AUPR_error", "AUPR_success", "FPR95", "AURC", "AUGRC", "ECE"):
    assert results["error"][score] is not None
    assert results["error"]["baselines"]["max_probability"][score] is not None
  assert {"semantic_ms", "error_ms", "detail_ms"} <= results["speed"].keys()
  assert main(["report", f"--workdir={workdir}", one]) == 0
  assert (workdir / "report.html").stat().st_size > 10_000
  assert main(["predict", f"--workdir={workdir}", one, str(own_data / "images" / "val")]) == 0
  with (workdir / "predictions" / "predictions.csv").open() as file:
    assert len(list(csv.DictReader(file))) == 5
  assert main(["label-issues", f"--workdir={workdir}", one, "--by=error_map"]) == 0
  assert main(["confusion", f"--workdir={workdir}", one]) == 0


def test_a_threshold_of_the_call_is_told_with_the_scores(run, tmp_path):
  workdir = tmp_path / "run"
  shutil.copytree(run, workdir)
  flags = [f"--workdir={workdir}", "--config.num_devices=1"]
  assert main(["evaluate", *flags]) == 0
  whole = json.loads((workdir / "results.json").read_text())
  assert main(["evaluate", *flags, "--config.early_exit.threshold=0.99"]) == 0
  exits = json.loads((workdir / "results.json").read_text())
  assert "early_exit" not in whole
  assert exits["early_exit"] == {"threshold": 0.99, "tile": 2}
  assert exits["semantic"] == whole["semantic"]
  assert exits["fused"]["IoU"] == pytest.approx(exits["semantic"]["IoU"], abs=1.0)  # hardly a pixel goes on
  assert exits["speed"]["detail_ms"] >= 0


def test_early_exit_is_benched(run, capsys, monkeypatch, tmp_path):
  from errseg_jax.bench import command, rounds
  from errseg_jax.bench import early_exit as module

  monkeypatch.setattr(module, "THRESHOLDS", (0.2, 0.9))
  monkeypatch.setattr(rounds, "ROUNDS", 2)
  workdir = tmp_path / "run"
  shutil.copytree(run, workdir)
  found = early_exit(load_config(workdir), workdir, "val")
  assert [row["threshold"] for row in found["rows"]] == [0.0, 0.2, 0.9]
  tiles = [row["tiles"] for row in found["rows"]]
  assert tiles[0] == 100
  assert tiles == sorted(tiles, reverse=True)
  assert found["rows"][0]["saved"] == 0
  assert all(row["ms"] > 0 and 0 <= row["mIoU"] <= 100 for row in found["rows"])
  monkeypatch.setitem(command.OF_RUN, "early_exit", command.Bench(lambda *args: found, module.table))
  assert main(["bench", "--what=early_exit", f"--workdir={workdir}"]) == 0
  assert "threshold" in capsys.readouterr().out
  assert "<svg" in (workdir / "early_exit.svg").read_text()


def test_only_a_cascade_exits_early(trained, capsys):
  assert main(["bench", "--what=early_exit", f"--workdir={trained}"]) == 2
  assert "wants a cascade" in capsys.readouterr().err


def test_branches_come_on_top_of_its_coarse_branch(run, tiny_config, tmp_path):
  config = tiny_config(order=("detail", "error"), error_branch__prior="detail")
  config.segmenter = load_config(run).segmenter
  config.segmenter.init = str(run)
  Trainer(with_defaults(config), tmp_path / "run").run()
  given = load(run)
  config = load_config(tmp_path / "run")
  model = assemble.model(config, 3)
  own = trained_variables(config, tmp_path / "run", model)
  for kind, tree in own.items():
    pairs = zip(
      jax.tree.leaves(tree["segmenter"]), jax.tree.leaves(given.variables[kind]["segmenter"]), strict=True
    )
    assert all((a == b).all() for a, b in pairs)


@pytest.mark.slow
def test_a_given_network_is_trained_on_as_a_cascade(trained, tiny_config, tmp_path):
  config = cascade(tiny_config(), 16)
  config.segmenter = load_config(trained).segmenter
  config.segmenter.init = str(trained)
  Trainer(with_defaults(config), tmp_path / "run").run()
  network = load(tmp_path / "run")
  assert set(network.variables["params"]) == {"segmenter", "error", "detail"}
  assert jnp.isfinite(network.predict(np.zeros((32, 48, 3), np.uint8)).error_probability).all()
