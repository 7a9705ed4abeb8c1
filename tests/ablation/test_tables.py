"""Tables and plots from numbers made up by hand."""

import json

import numpy as np
import pytest

from errseg_jax.ablation import plots, tables
from errseg_jax.ablation.markdown_table import spread
from errseg_jax.ablation.summary import deviation, differences, mean, seconds
from errseg_jax.ablation.tables import budget_note


def test_a_spread_is_mean_and_sample_deviation():
  assert spread([1.0, 2.0, 3.0]) == "2.00 ± 1.00"
  assert spread([0.5], signed=True) == "+0.50"
  assert spread([1.0, None]) == spread([]) == "-"
  assert (mean([1.0, 4.0]), deviation([3.0])) == (2.5, None)


def test_differences_are_to_the_same_seed_and_the_own_max_probability():
  free = {"max_probability": {"AUPR_error": 40.0}}
  scores = {"mIoU": 50.0, "network_mIoU": 48.0, "AUPR_error": 43.0, "baselines": free}
  found = differences(scores, {"vs_base": {"mIoU": 47.0}, "vs_base_longer": None})
  assert found == {
    "vs_base": 3.0,
    "vs_base_longer": None,
    "vs_own_network": 2.0,
    "AUPR_vs_max_probability": 3.0,
  }


def test_another_budget_is_flagged():
  assert budget_note("paper", {"over_budget": 0}) == "equal"
  assert budget_note("crossfit", {"over_budget": 12_000}) == "**+12,000 steps**"
  assert budget_note("base_doubled", {"over_budget": -5}) == "**-5 steps**"


def test_seconds_come_from_the_logged_rates(trained, tmp_path):
  (tmp_path / "config.json").write_bytes((trained / "config.json").read_bytes())
  lines = [
    {"stage": "semantic", "step": 10, "time/images_per_s": 8.0},  # 10 steps of 8 images
    {"stage": "semantic", "step": 10, "choose/semantic/mIoU": 50.0},
    {"stage": "semantic", "step": 30, "time/images_per_s": 16.0},  # 20 more
    {"stage": "error", "step": 4, "time/images_per_s": 32.0},
  ]
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  assert seconds(tmp_path) == pytest.approx(10 + 10 + 1)


def run(miou, aupr):
  scores = dict.fromkeys(("AUROC", "AUPR_error", "AUPR_success", "FPR95", "AURC", "AUGRC", "ECE"), aupr)
  steps = [{"t": t, "IoU": 20.0, "hard_recall": None, "mIoU": miou} for t in (0.1, 0.7)]
  own = scores if aupr else dict.fromkeys(scores)
  return {
    **own,
    "mIoU": miou,
    "vs_base": miou - 50,
    "baselines": {"entropy": dict.fromkeys(scores, 30.0)},
    "by_threshold": steps,
  }


def test_plots_show_every_row_with_its_scores():
  rows = {
    name: {"seeds": {"0": run(miou, aupr), "1": run(miou + 1, aupr)}}
    for name, miou, aupr in (("base", 50, None), ("paper", 49, 35.0), ("bagging", 51, None))
  }
  shown = {"gains": plots.gains(rows), "errors": plots.error_scores(rows), "threshold": plots.threshold(rows)}
  assert all(svg.startswith("<?xml") for svg in shown.values())
  hist = np.ones((2, 4096), int)
  assert plots.reliability({"P_ep": hist, "P_ep, calibrated": hist}).startswith("<?xml")
  assert plots.reliability({}) == plots.gains({"base": rows["base"]}) == ""


def test_free_scores_are_told_once():
  rows = {
    name: {"seeds": {"0": run(50, aupr) | {"AUPR_vs_max_probability": 1.5}}}
    for name, aupr in (("base", None), ("paper", 35.0))
  }
  found = tables.errors(rows).rows
  assert [line[0] for line in found] == ["`base`: entropy", "`paper`: **P_ep**"]
  assert found[1][2] == "35.00"
  assert found[1][-1] == "+1.50"
