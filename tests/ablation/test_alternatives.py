"""Every alternative trains from a finished run's network and is evaluated like the method itself."""

import json

import pytest

from errseg_jax.ablation.alternatives import ALTERNATIVES
from errseg_jax.assemble import with_defaults
from errseg_jax.evaluate import evaluate
from errseg_jax.train.stages import plan
from errseg_jax.train.trainer import Trainer
from errseg_jax.train.workdir import load_config


@pytest.fixture(scope="module")
def base(trained):
  return str(trained)


@pytest.mark.parametrize("name", sorted(ALTERNATIVES))
def test_an_alternative_takes_as_many_steps_as_both_branches(name, trained):
  config = load_config(trained)
  before = config.to_json()
  stages = plan(ALTERNATIVES[name](config, str(trained)))
  assert sum(stage.steps for stage in stages) == config.stages.detail.steps + config.stages.error.steps
  assert config.to_json() == before


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ALTERNATIVES))
def test_an_alternative_trains_and_is_scored(name, trained, tmp_path):
  config = with_defaults(ALTERNATIVES[name](load_config(trained), str(trained)))
  Trainer(config, tmp_path).run()
  results = evaluate(load_config(tmp_path), tmp_path, "val")
  handed_out = "semantic" if name == "dupsampling" else "fused"
  assert 0 < results[handed_out]["mIoU"] <= 100
  assert json.loads((tmp_path / "results.json").read_text()) == results
  if name in ("gau_decoder", "layer_cascade", "hard_mining"):
    assert results["chosen"]["fusion"] == "detail"
    assert results["fused"] == {**results["detail"], **{k: results["fused"][k] for k in ("mBIoU", "BIoU")}}
  if name in ("bagging", "averaging"):
    assert results["chosen"]["fusion"] == "mean"
  if name.startswith("confidnet"):
    assert 0 <= results["error"]["AUPR_error"] <= 100
