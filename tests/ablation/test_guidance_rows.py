import json

import pytest

from errseg_jax import commands
from errseg_jax.ablation import run
from errseg_jax.ablation.guidance_rows import GUIDANCE
from errseg_jax.ablation.guidance_tables import guidance_tables
from errseg_jax.ablation.rows import FAMILIES, ROWS
from errseg_jax.ablation.shared import in_common
from errseg_jax.assemble import with_defaults
from errseg_jax.cli import main
from errseg_jax.errors import UserError
from errseg_jax.train.stages import plan


@pytest.fixture(scope="module")
def config(tiny_config):
  return with_defaults(tiny_config())


@pytest.mark.parametrize("name", sorted(GUIDANCE))
def test_a_row_spends_what_the_branches_do(name, config, tmp_path):
  before = config.to_json()
  row = run.row_config(config, tmp_path, 0, name)
  (stage,) = plan(row)
  own = config.stages
  assert stage.steps == (own.semantic.steps if name == "base_views" else own.error.steps + own.detail.steps)
  assert stage.kind == {"base_views": "semantic", "guided_frozen": "guidance"}.get(name, "guided")
  assert config.to_json() == before


def test_rows_that_only_see_or_smooth_otherwise_share_their_training(config, tmp_path):
  guided = run.row_config(config, tmp_path, 0, "guided")
  for name in GUIDANCE:
    shared = in_common(run.row_config(config, tmp_path, 0, name), guided)
    assert shared == ([] if name in ("base_views", "guided_frozen") else ["guided"])
  assert in_common(
    run.row_config(config, tmp_path, 0, "base_views"), run.row_config(config, tmp_path, 0, "base")
  )


@pytest.mark.parametrize(("section", "key"), [("guidance", "hidden"), ("guidance_loss", "presence")])
def test_another_guidance_is_another_training(section, key, config, tmp_path):
  guided = run.row_config(config, tmp_path, 0, "guided")
  other = guided.copy_and_resolve_references()
  other[section][key] *= 2
  assert in_common(guided, other) == []


def test_rows_turn_on_what_they_are_about_and_nothing_else(config, tmp_path):
  config = config.copy_and_resolve_references()
  config.views.update(scales=(0.5, 1.0), mirror=True, combine="learned")
  config.crf.iterations = 3
  seen = {name: run.row_config(config, tmp_path, 0, name) for name in ("base", "guided", *GUIDANCE)}
  several = {name for name, row in seen.items() if row.views.mirror}
  views = ("guided_mean", "guided_max", "guided_mean_max", "guided_learned", "guided_mean_crf", "guided_all")
  assert several == {"base_views", *views}
  smooth = {name for name, row in seen.items() if row.crf.iterations}
  alone = ("guided_potts", "guided_crf", "guided_dense_crf", "guided_learned_crf")
  assert smooth == {*alone, "guided_mean_crf", "guided_all"}


def test_a_guided_config_keeps_its_own_guidance(config, tmp_path):
  config = config.copy_and_resolve_references()
  config.order, config.stages.guided.steps, config.stages.guidance.steps = ("guided",), 7, 9
  config.guidance.hidden = 5
  rows = {
    name: run.row_config(config, tmp_path, 0, name) for name in ("base_longer", "guided", "guided_frozen")
  }
  assert {row.guidance.hidden for row in rows.values()} == {5}
  assert [plan(row)[0].steps for row in rows.values()] == [7, 7, 7]


def test_tuning_needs_images_that_are_not_reported(tiny_config, tmp_path):
  config = with_defaults(tiny_config(splits__choose="val", train__select="last"))
  with pytest.raises(UserError, match="not reported"):
    run.check("guided_crf", run.row_config(config, tmp_path, 0, "guided_crf"))
  run.check("guided", run.row_config(config, tmp_path, 0, "guided"))


def test_no_row_has_the_name_of_a_family():
  assert not {*FAMILIES} & {*ROWS}


def test_the_family_has_the_control(config):
  assert run.chosen(["guidance"], config) == list(FAMILIES["guidance"])
  assert FAMILIES["guidance"][:2] == ("base", "base_longer")


@pytest.mark.slow
def test_rows_are_trained_tuned_and_told(config, tmp_path, monkeypatch):
  monkeypatch.setattr(commands, "required_config", lambda args: config)
  rows = "base_longer,guided_frozen,guided,guided_mean,guided_crf"
  assert main(["ablate", f"--workdir={tmp_path}", f"--rows={rows}", "--seeds=1"]) == 0
  told = json.loads((tmp_path / "ablation.json").read_text())["rows"]
  for name in rows.split(","):
    assert told[name]["over_budget"] == 0
    assert (told[name]["mean"].get("oracle_mIoU") is None) == (name == "base_longer")
  results = json.loads((tmp_path / "seed0/guided_crf/results.json").read_text())
  assert told["guided_crf"]["mean"]["mIoU"] == pytest.approx(results["crf"]["mIoU"])
  assert (tmp_path / "seed0/guided_crf/tuned.json").exists()
  assert told["guided"]["mean"]["presence_mF1"] is not None
  text = (tmp_path / "ablation.md").read_text()
  assert "## Guidance (P3)" in text
  assert "## Pooling of six views (P3, Table 2)" in text
  assert "## True classes known" not in text  # its row was not asked for


def row(*mious, known=None):
  scores = {"aAcc": 90.0, "vs_base": 1.0, "vs_base_longer": 1.0, "presence_mAP": None, "presence_mF1": None}
  runs = {str(s): {**scores, "mIoU": m, "oracle_mIoU": known} for s, m in enumerate(mious)}
  return {"description": "", "seeds": runs}


def test_tables_are_laid_out_as_the_papers_with_paired_differences():
  rows = {
    "base_views": row(40.0, 42.0, known=50.0),
    "guided_mean": row(41.0, 44.0),
    "guided_all": row(45.0, known=60.0),
  }
  everything, known, pooling, steps = guidance_tables(rows)
  assert [line[0] for line in everything.rows] == [f"`{name}`: " for name in rows]
  assert known.rows == (
    ("without the true classes", "41.00 ± 1.41", ""),
    ("with them", "50.00 ± 0.00", "+9.00 ± 1.41"),
  )
  assert pooling.rows == (("mean", "42.50 ± 2.12", ""),)
  assert steps.rows[1] == ("+ guidance", "42.50 ± 2.12", "+1.50 ± 0.71")
  assert steps.rows[2][1:] == ("45.00", "+5.00")  # seed 0 alone, against seed 0
  assert steps.rows[3] == ("+ true classes", "60.00", "+20.00")
  assert guidance_tables({"base": row(1.0)}) == ()
