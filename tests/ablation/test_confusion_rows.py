"""P1's rows: equal budgets, the same groups for all of a seed, gains inside and outside the groups."""

import json

import pytest

from errseg_jax.ablation import run
from errseg_jax.ablation.class_gains import class_gains, confused_classes
from errseg_jax.ablation.confusion_rows import CONFUSION
from errseg_jax.ablation.rows import FAMILIES
from errseg_jax.assemble import with_defaults
from errseg_jax.train.stages import plan


@pytest.fixture(scope="module")
def config(tiny_config):
  section = {"name": "confusion", "strength": 2.0}
  return with_defaults(
    tiny_config(
      order=("semantic", "subnets"),
      stages__subnets__steps=5,
      groups__threshold=1e-6,
      subnets_loss__pixel=section,
      stages__control__eval_every=0,
      stages__subnets__eval_every=0,
    )
  )


@pytest.mark.parametrize("name", CONFUSION)
def test_every_row_takes_as_many_steps(config, tmp_path, name):
  row = run.row_config(config, tmp_path, 0, name)
  assert sum(stage.steps for stage in plan(row)) == 5
  assert row.segmenter.init == str(tmp_path / "seed0/base")


def test_the_two_by_two(config, tmp_path):
  cells = {name: run.row_config(config, tmp_path, 0, name) for name in CONFUSION}
  assert cells["subnets"].subnets_loss.pixel.name == "cross_entropy"
  for name in ("subnets", "subnets_confusion_loss"):
    assert (cells[name].subnets.rule, cells[name].subnets_loss.jaccard) == ("product", 0.0)
  assert cells["confusion_loss"].semantic_loss.pixel.strength == 2.0
  both = cells["subnets_confusion_loss"]
  assert both.order == ("finetune", "subnets")
  assert both.semantic_loss.pixel.name == both.subnets_loss.pixel.name == "confusion"
  assert both.stages.finetune.optimizer == config.stages.control.optimizer
  assert cells["focal"].semantic_loss.pixel.name == "focal"


def test_families_name_rows(config):
  rows = run.chosen(("confusion",), config)
  assert rows == list(FAMILIES["confusion"])
  assert rows[0] == "base"
  assert "base_longer" in rows
  assert set(CONFUSION) < set(rows)
  assert not set(CONFUSION) & set(run.chosen((), config))
  assert run.chosen(("subnets",), config) == ["base", "subnets"]


def test_groups_that_a_config_names_are_those_of_every_seed(config, tmp_path):
  named = config.copy_and_resolve_references()
  named.groups.named = (("ground", "sign"),)
  assert confused_classes(named, tmp_path) == {"ground", "sign"}
  assert confused_classes(config, tmp_path) == frozenset()


def test_frequencies_take_the_place_of_a_balance(config, tmp_path):
  balanced = config.copy_and_resolve_references()
  balanced.semantic_loss.balance = 0.5
  row = run.row_config(balanced, tmp_path, 0, "median_frequency")
  assert row.semantic_loss.balance == 0.0
  assert run.row_config(balanced, tmp_path, 0, "focal").semantic_loss.balance == 0.5


def test_gains_are_told_apart():
  base = {"class_IoU": {"a": 10.0, "b": 20.0, "c": 30.0, "d": None}}
  own = {"class_IoU": {"a": 13.0, "b": 21.0, "c": 28.0, "d": 5.0}}
  got = class_gains(own, base, frozenset({"a", "b", "d"}))
  assert got["class_gain"] == {"a": 3.0, "b": 1.0, "c": -2.0, "d": None}
  assert (got["gain_inside_groups"], got["gain_outside_groups"]) == (2.0, -2.0)
  assert class_gains(own, base, frozenset())["gain_outside_groups"] is None
  assert class_gains(own, None, frozenset({"a"}))["gain_inside_groups"] is None


@pytest.mark.slow
def test_groups_are_found_in_the_base_of_the_seed(config, tmp_path):
  names = ["base_longer", "subnets", "subnets_confusion_loss"]
  assert run.ablate(config, tmp_path / "W", names, 1) == {}
  summary = json.loads((tmp_path / "W/ablation.json").read_text())
  found = json.loads((tmp_path / "W/seed0/base/confusion/train.json").read_text())
  confused = sorted(name for group in found["groups"] for name in group["classes"])
  assert confused
  for name in names:
    row = summary["rows"][name]["seeds"]["0"]
    assert row["confused"] == confused
    assert row["gain_inside_groups"] is not None
    assert summary["rows"][name]["over_budget"] == 0
  subnets = summary["rows"]["subnets"]["seeds"]["0"]
  assert subnets["vs_own_network"] == pytest.approx(subnets["vs_base"])
  page = (tmp_path / "W/ablation.md").read_text()
  assert "## Confused classes" in page
  assert (tmp_path / "W/plots/class_gains.svg").exists()
