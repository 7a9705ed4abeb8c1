"""Three rows and two seeds on the smallest data, stopped and gone on with."""

import json
import pathlib
import re

import numpy as np
import pytest

from errseg_jax import assemble, commands
from errseg_jax.ablation import run
from errseg_jax.ablation.rows import ROWS
from errseg_jax.assemble import stage_losses, with_defaults
from errseg_jax.cli import main
from errseg_jax.errors import UserError
from errseg_jax.pixel_losses import PLAIN
from errseg_jax.train.loop import Stopped
from errseg_jax.train.trainer import Trainer

NAMES = "base_longer,paper"
TWICE = {"detail_loss__balance": 0.5, "detail_loss__pixel": {"name": "median_frequency"}}
RUNS = [f"seed{s}/{name}" for s in (0, 1) for name in ("base", "base_longer", "paper")]


@pytest.fixture(scope="module")
def config(tiny_config):
  return with_defaults(tiny_config(stages__error__steps=3, detail_loss__balance=0.5))


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
  """(workdir, the runs trained by each of two calls of the command): the first was stopped in the fourth run."""
  workdir, calls = tmp_path_factory.mktemp("ablation") / "W", []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(commands, "required_config", lambda args: config)
    train = Trainer.run

    def traced(trainer):
      calls[-1].append(str(trainer.workdir.relative_to(workdir)))
      if len(calls) == 1 and len(calls[-1]) == 4:
        raise Stopped
      train(trainer)

    patch.setattr(Trainer, "run", traced)
    codes = []
    for _ in range(2):
      calls.append([])
      codes.append(main(["ablate", f"--workdir={workdir}", f"--rows={NAMES}", "--seeds=2"]))
      if len(calls) == 1:
        partial = (workdir / "ablation.md").read_text()
  assert codes == [143, 0]
  return workdir, calls, partial


def results(workdir, name):
  return json.loads((workdir / name / "results.json").read_text())


@pytest.mark.slow
def test_a_stopped_ablation_goes_on_where_it_was(finished):
  _, calls, partial = finished
  assert calls == [RUNS[:4], RUNS[3:]]
  assert all(name in partial for name in RUNS[3:])
  assert RUNS[2] not in partial
  assert "| `base`" in partial


@pytest.mark.slow
def test_every_row_starts_from_the_base_of_its_seed(finished):
  workdir = finished[0]
  for seed in (0, 1):
    base = results(workdir, f"seed{seed}/base")
    assert base["seed"] == seed
    for name in ("base_longer", "paper"):
      assert results(workdir, f"seed{seed}/{name}")["semantic"] == base["semantic"]
  assert results(workdir, "seed0/base")["semantic"] != results(workdir, "seed1/base")["semantic"]


@pytest.mark.slow
def test_the_tables_follow_from_the_results(finished):
  workdir = finished[0]
  summary = json.loads((workdir / "ablation.json").read_text())
  assert summary["missing"] == []
  got = summary["rows"]["paper"]
  runs = [results(workdir, f"seed{s}/paper") for s in (0, 1)]
  base = [results(workdir, f"seed{s}/base")["semantic"]["mIoU"] for s in (0, 1)]
  longer = [results(workdir, f"seed{s}/base_longer")["control"]["mIoU"] for s in (0, 1)]
  fused = [r["fused"]["mIoU"] for r in runs]
  gains = np.subtract(fused, base)
  assert got["mean"]["mIoU"] == pytest.approx(np.mean(fused))
  assert got["mean"]["vs_base"] == pytest.approx(np.mean(gains))
  assert got["std"]["vs_base"] == pytest.approx(np.std(gains, ddof=1))
  assert got["mean"]["vs_base_longer"] == pytest.approx(np.mean(np.subtract(fused, longer)))
  assert summary["rows"]["base_longer"]["mean"]["mIoU"] == pytest.approx(np.mean(longer))
  lead = [r["error"]["AUPR_error"] - r["error"]["baselines"]["max_probability"]["AUPR_error"] for r in runs]
  assert got["mean"]["AUPR_vs_max_probability"] == pytest.approx(np.mean(lead))
  line = next(x for x in (workdir / "ablation.md").read_text().splitlines() if x.startswith("| `paper`"))
  assert f"| {np.mean(gains):+.2f} ± {np.std(gains, ddof=1):.2f} |" in line
  assert f"| {np.mean(fused):.2f} ± {np.std(fused, ddof=1):.2f} |" in line


@pytest.mark.slow
def test_steps_and_images_of_everything_are_counted(finished):
  rows = json.loads((finished[0] / "ablation.json").read_text())["rows"]
  assert [rows[n]["steps"] for n in ("base", "base_longer", "paper")] == [4, 11, 11]
  assert [rows[n]["image_passes"] for n in ("base", "base_longer", "paper")] == [32, 88, 88]
  assert [rows[n]["over_budget"] for n in ("base", "base_longer", "paper")] == [-7, 0, 0]
  assert "detail" in rows["paper"]["parameters"]
  assert "detail" not in rows["base"]["parameters"]


@pytest.mark.slow
def test_plots_are_written(finished):
  names = {"gains", "error_scores", "threshold", "reliability"}
  assert {path.stem for path in (finished[0] / "plots").iterdir()} == names


@pytest.mark.slow
def test_a_config_that_changed_is_refused(finished, config, monkeypatch, capsys):
  other = config.copy_and_resolve_references()
  other.stages.detail.steps = 5
  monkeypatch.setattr(commands, "required_config", lambda args: other)
  before = (finished[0] / "ablation.json").read_bytes()
  assert main(["ablate", f"--workdir={finished[0]}", f"--rows={NAMES}"]) == 2
  assert "stages.detail.steps: 4 there, 5 now" in capsys.readouterr().err
  assert (finished[0] / "ablation.json").read_bytes() == before


@pytest.mark.parametrize(
  ("rows", "changes", "message"),
  [
    ("papr", {}, "did you mean 'paper'"),
    ("prior_msp", {"detail_loss__weights": "none"}, "row 'prior_msp': config.detail_loss.weights"),
    ("prior_msp", TWICE, "row 'prior_msp': detail_loss.pixel weighs classes"),
    ("base", {"splits__val": "nowhere"}, "row 'base': "),
    ("holdout", {"segmenter__init": "elsewhere"}, "leave it out"),
  ],
)
def test_a_mistake_is_one_line_before_anything_trains(tiny_config, tmp_path, rows, changes, message):
  config = with_defaults(tiny_config(**changes))
  with pytest.raises(UserError, match=re.escape(message)):
    run.ablate(config, tmp_path / "W", [rows], 1)
  assert not (tmp_path / "W").exists()


def test_a_row_that_fails_does_not_end_the_others(config, tmp_path, monkeypatch):
  def fake(config, folder, further):
    if folder.name == "paper":
      raise UserError("broken")
    assert further == (folder.name == "default")
    done.append(folder.name)

  done, told = [], []
  monkeypatch.setattr(run, "run_row", fake)
  monkeypatch.setattr(run, "write", lambda *args: told.append(dict(args[-1])))
  assert run.ablate(config, tmp_path, ["paper", "default"], 1) == {"seed0/paper": "broken"}
  assert done == ["base", "default"]
  assert told[-1] == {"seed0/paper": "broken"}


@pytest.mark.parametrize("name", list(ROWS))
def test_every_row_can_be_built(config, name, tmp_path):
  run.check(name, run.row_config(config, tmp_path, 0, name))


def test_a_row_is_checked_without_reading_labels_and_its_control_has_its_loss(config, tmp_path, monkeypatch):
  config = config.copy_and_resolve_references()
  config.detail_loss.balance, config.detail_loss.pixel = 0.0, {"name": "median_frequency"}
  for name in ("class_counts", "class_frequencies"):
    monkeypatch.delattr(stage_losses, name)
  for name in ("default", "base_longer_alike"):
    run.check(name, run.row_config(config, tmp_path, 0, name))
  alike = run.row_config(config, tmp_path, 0, "base_longer_alike")
  assert assemble.loss(alike, "control").pixel == assemble.loss(config, "detail").pixel
  plain = run.row_config(config, tmp_path, 0, "gau_decoder")
  assert assemble.loss(plain, "detail").pixel == PLAIN


def test_a_given_network_leaves_out_what_trains_one_anew(config):
  given = config.copy_and_resolve_references()
  given.segmenter.init = str(pathlib.Path("elsewhere"))
  anew = {"base_doubled", "holdout", "crossfit", "cascade", "cascade_fine", "pyramid"}
  assert anew == set(run.chosen((), config)) - set(run.chosen((), given))


@pytest.mark.parametrize(("rate", "want"), [(0.1, ("mc_dropout", "tta")), (0.0, ("tta",))])
def test_a_network_is_asked_for_the_scores_that_it_can_give(tiny_config, rate, want):
  config = with_defaults(tiny_config(segmenter__head__dropout=rate))
  assert run.further_scores(assemble.model(config, 3)) == want
