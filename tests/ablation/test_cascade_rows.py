"""The cascade in an ablation: as long as all stages of the config, and told beside them."""

import json

import pytest

from errseg_jax import commands
from errseg_jax.ablation import run
from errseg_jax.ablation.cascade_rows import CASCADE, width
from errseg_jax.assemble import with_defaults
from errseg_jax.cli import main
from errseg_jax.config import cascade
from errseg_jax.errors import UserError
from errseg_jax.train.stages import plan


@pytest.fixture(scope="module")
def config(tiny_config):
  return with_defaults(tiny_config())


@pytest.mark.parametrize("name", sorted(CASCADE))
def test_a_row_is_one_stage_as_long_as_all_of_the_others(name, config, tmp_path):
  before = config.to_json()
  (stage,) = plan(run.row_config(config, tmp_path, 0, name))
  staged = [config.stages[s] for s in ("semantic", "detail", "error")]
  assert stage.steps == sum(section.steps for section in staged)
  assert stage.batch_size == staged[0].batch_size
  assert stage.optimizer.to_dict() == staged[0].optimizer.to_dict()
  assert config.to_json() == before


@pytest.mark.parametrize(("head", "channels"), [({"features": 64}, 128), ({}, 512), ({"features": 0}, 512)])
def test_the_pyramid_is_as_wide_as_the_head_it_stands_beside(head, channels, config):
  config = config.copy_and_resolve_references()
  config.segmenter.head = {"name": "fcn", **head}
  assert width(config) == channels


def test_the_config_of_a_cascade_is_no_comparison(tiny_config, tmp_path):
  config = with_defaults(cascade(tiny_config(), 16))
  with pytest.raises(UserError, match="a stage for each branch"):
    run.ablate(config, tmp_path, ["default"], 1)


@pytest.mark.slow
def test_both_rows_are_trained_and_told(config, tmp_path, monkeypatch):
  monkeypatch.setattr(commands, "required_config", lambda args: config)
  assert main(["ablate", f"--workdir={tmp_path}", "--rows=cascade,pyramid", "--seeds=1"]) == 0
  rows = json.loads((tmp_path / "ablation.json").read_text())["rows"]
  for name in ("cascade", "pyramid"):
    assert (rows[name]["steps"], rows[name]["over_budget"]) == (12, 0)
    assert (tmp_path / "seed0" / name / "results.json").exists()
  results = json.loads((tmp_path / "seed0/cascade/results.json").read_text())
  gain = results["fused"]["mIoU"] - results["semantic"]["mIoU"]
  assert rows["cascade"]["mean"]["vs_own_network"] == pytest.approx(gain)
  assert rows["cascade"]["mean"]["AUPR_error"] == pytest.approx(results["error"]["AUPR_error"])
  assert {"detail", "error"} <= rows["cascade"]["parameters"].keys()
  assert "detail" not in rows["pyramid"]["parameters"]
