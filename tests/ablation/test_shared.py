"""Rows that share stages: which they are, and that taking them changes no result."""

import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from errseg_jax.ablation import run
from errseg_jax.ablation.run import row_config
from errseg_jax.ablation.shared import in_common, take
from errseg_jax.assemble import with_defaults
from errseg_jax.train.workdir import claim

DETAIL_FIRST = {
  "error_branch__prior": "detail",
  "order": ("semantic", "detail", "error"),
  "detail_loss__weights": "soft",
}


@pytest.fixture(scope="module")
def config(tiny_config):
  return with_defaults(tiny_config(**DETAIL_FIRST))


@pytest.mark.parametrize(
  ("first", "second", "stages"),
  [
    ("default", "averaging", ["detail", "error"]),
    ("default", "prior_none", ["detail"]),
    ("prior_none", "prior_msp", ["detail"]),
    ("gau_decoder", "bagging", ["detail"]),
    ("paper", "paper_t0.5", ["error"]),
    ("base", "crossfit", ["semantic"]),
    ("base", "holdout", []),
    ("base", "base_doubled", []),
    ("base", "default", []),
    ("default", "weights_all", []),
    ("default", "strong", []),
    ("default", "confidnet", []),
    ("gau_decoder", "hard_mining", []),
    ("base_longer", "base_longer_alike", []),
    ("base_longer", "focal", []),
    ("subnets", "subnets_confusion_loss", []),
  ],
)
def test_what_two_rows_have_in_common(config, tmp_path, first, second, stages):
  a, b = (row_config(config, tmp_path, 0, name) for name in (first, second))
  if first == "base_longer":
    b.semantic_loss.balance = 0.5  # in the tiny config the two losses are the same
  assert in_common(a, b) == in_common(b, a) == stages


@pytest.mark.parametrize(
  ("section", "key", "value", "same"),
  [
    ("error_loss", "w2", 1.5, False),
    ("detail_branch", "features", 24, False),
    ("cascade", "detach", True, False),
    ("early_exit", "threshold", 0.3, True),
    ("sparse", "tile", 64, True),
    ("views", "mirror", True, True),
    ("tiles", "size", 64, True),
    ("crf", "iterations", 5, True),
    ("choose", "calibration", "isotonic", True),
  ],
)
def test_cascades_share_what_trains_alike(config, tmp_path, section, key, value, same):
  a, b = (with_defaults(row_config(config, tmp_path, 0, "cascade")) for _ in range(2))
  b[section][key] = value
  assert in_common(a, b) == (["cascade"] if same else [])


def test_seeds_share_nothing(config, tmp_path):
  a, b = (row_config(config, tmp_path, seed, "default") for seed in (0, 1))
  assert in_common(a, b) == []


def files(folder):
  return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def finish(config, folder, stages):
  claim(folder, config)
  for name in stages:
    (folder / "checkpoints" / name).mkdir(parents=True)
    (folder / "checkpoints" / name / "weights").write_text(str(folder))
  rows = [{"stage": name, "step": 1} for name in stages]
  (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  (folder / "results.json").write_text("{}")


def test_the_longest_match_is_taken_and_nothing_else(config, tmp_path):
  for name in ("default", "prior_none"):
    finish(row_config(config, tmp_path, 0, name), tmp_path / "seed0" / name, ["detail", "error"])
  before = files(tmp_path)
  folder = tmp_path / "seed0/averaging"
  (tmp_path / "seed0/.averaging.part").mkdir()  # of a copy that was killed
  assert take(row_config(config, tmp_path, 0, "averaging"), folder) == ["detail", "error"]
  assert (folder / "checkpoints/error/weights").read_text() == str(tmp_path / "seed0/default")
  assert (folder / "metrics.jsonl").read_text().count("\n") == 2
  assert not (folder / "results.json").exists()
  assert not (tmp_path / "seed0/.averaging.part").exists()
  after = files(tmp_path)
  assert {k: after[k] for k in before} == before
  prior = tmp_path / "seed0/prior_msp"
  assert take(row_config(config, tmp_path, 0, "prior_msp"), prior) == ["detail"]
  assert [p.name for p in (prior / "checkpoints").iterdir()] == ["detail"]


def test_a_row_that_was_begun_is_left_as_it_is(config, tmp_path):
  finish(row_config(config, tmp_path, 0, "default"), tmp_path / "seed0/default", ["detail", "error"])
  (tmp_path / "seed0/averaging").mkdir()
  assert take(row_config(config, tmp_path, 0, "averaging"), tmp_path / "seed0/averaging") == []
  assert not list((tmp_path / "seed0/averaging").iterdir())


def test_an_unfinished_row_gives_nothing(config, tmp_path):
  finish(row_config(config, tmp_path, 0, "default"), tmp_path / "seed0/default", ["detail", "error"])
  (tmp_path / "seed0/default/results.json").unlink()
  assert take(row_config(config, tmp_path, 0, "averaging"), tmp_path / "seed0/averaging") == []


@pytest.mark.slow
def test_taking_stages_changes_no_result(config, tmp_path, monkeypatch):
  for name in ("base", "default", "prior_msp"):
    run.run_row(row_config(config, tmp_path, 0, name), tmp_path / "seed0" / name)
  shared = tmp_path / "seed0/prior_msp"
  alone = shared.rename(tmp_path / "taken")
  monkeypatch.setattr(run, "take", lambda *args: [])
  run.run_row(row_config(config, tmp_path, 0, "prior_msp"), shared)
  for stage in ("detail", "error"):
    a, b = (newest(folder, stage) for folder in (shared, alone))
    jax.tree.map(np.testing.assert_array_equal, a, b)


def newest(folder, stage):
  manager = ocp.CheckpointManager(folder / "checkpoints" / stage)
  found = manager.restore(manager.latest_step(), args=ocp.args.Composite(result=ocp.args.StandardRestore()))
  manager.close()
  return found["result"]
