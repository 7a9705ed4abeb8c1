"""A comparison in several processes: its rows train together, and the first one writes the tables."""

import json

import pytest


@pytest.mark.proof
def test_two_processes_fill_one_table(config_file, start, tmp_path):
  config = config_file(order=("semantic", "detail", "error"), error_branch__prior="detail", dtype="float64")
  words = ["ablate", f"--config={config}", "--rows=base_longer,default", "--seeds=1"]
  for name, count in (("one", 1), ("two", 2)):
    printed = start([*words, f"--workdir={tmp_path / name}"], count, 2).succeed()
    assert ["base_longer" in text for text in printed] == [True, False][:count]
  one, two = (json.loads((tmp_path / n / "ablation.json").read_text())["rows"] for n in ("one", "two"))
  assert one.keys() == two.keys() >= {"base", "base_longer", "default"}
  for row, found in one.items():
    assert two[row]["mean"]["mIoU"] == pytest.approx(found["mean"]["mIoU"], abs=1e-6)
