import json

import pytest

from errseg_jax import cli
from errseg_jax.ablation import run
from errseg_jax.ablation.guidance_rows import GUIDANCE
from errseg_jax.ablation.rows import FAMILIES
from errseg_jax.ablation.shared import in_common
from errseg_jax.assemble import with_defaults
from errseg_jax.cli import main
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
  assert stage.kind == {"base_views": "semantic", "guidance": "guidance"}.get(name, "guided")
  assert config.to_json() == before


def test_rows_that_only_see_or_smooth_otherwise_share_their_training(config, tmp_path):
  guided = run.row_config(config, tmp_path, 0, "guided")
  for name in GUIDANCE:
    shared = in_common(run.row_config(config, tmp_path, 0, name), guided)
    assert shared == ([] if name in ("base_views", "guidance") else ["guided"])
  assert in_common(
    run.row_config(config, tmp_path, 0, "base_views"), run.row_config(config, tmp_path, 0, "base")
  )


@pytest.mark.parametrize(("section", "key"), [("guidance", "hidden"), ("guidance_loss", "presence")])
def test_another_guidance_is_another_training(section, key, config, tmp_path):
  guided = run.row_config(config, tmp_path, 0, "guided")
  other = guided.copy_and_resolve_references()
  other[section][key] *= 2
  assert in_common(guided, other) == []


def test_the_family_has_the_control(config):
  assert run.chosen(["guidance"], config) == list(FAMILIES["guidance"])
  assert FAMILIES["guidance"][:2] == ("base", "base_longer")


@pytest.mark.slow
def test_rows_are_trained_tuned_and_told(config, tmp_path, monkeypatch):
  monkeypatch.setattr(cli, "required_config", lambda args: config)
  rows = "base_longer,guidance,guided,guided_mean,guided_crf"
  assert main(["ablate", f"--workdir={tmp_path}", f"--rows={rows}", "--seeds=1"]) == 0
  told = json.loads((tmp_path / "ablation.json").read_text())["rows"]
  for name in rows.split(","):
    assert told[name]["over_budget"] == 0
    assert told[name]["mean"]["oracle_mIoU"] is not None
  results = json.loads((tmp_path / "seed0/guided_crf/results.json").read_text())
  assert told["guided_crf"]["mean"]["mIoU"] == pytest.approx(results["crf"]["mIoU"])
  assert (tmp_path / "seed0/guided_crf/tuned.json").exists()
  assert told["guided"]["mean"]["presence_mF1"] is not None
  text = (tmp_path / "ablation.md").read_text()
  assert "## Guidance (P3, Tables 1 to 3)" in text
