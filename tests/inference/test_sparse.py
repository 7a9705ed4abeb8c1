"""Sparse correction and error-guided views in the commands."""

import json
import shutil

import numpy as np
import pytest

from errseg_jax import assemble
from errseg_jax.bench import rounds
from errseg_jax.bench import sparse as bench
from errseg_jax.bench import views as bench_views
from errseg_jax.bench.command import show
from errseg_jax.cli import main
from errseg_jax.metrics.segmentation import segmentation_scores
from errseg_jax.models import sparse as module
from errseg_jax.train.restore import load
from errseg_jax.train.workdir import load_config

ONE = "--config.num_devices=1"
SPARSE = ("--config.sparse.threshold=0.3", "--config.sparse.tile=8")


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
  """A workdir of its own, and tiles that run however small the map."""
  monkeypatch.setattr(module, "MOST", 4.0)
  workdir = tmp_path / "run"
  shutil.copytree(trained, workdir)
  return workdir


def results(workdir, *flags):
  assert main(["evaluate", f"--workdir={workdir}", ONE, *flags]) == 0
  return json.loads((workdir / "results.json").read_text())


def test_evaluate_and_predict_give_the_same_labels(run):
  """Batches of four and single images: the confusion of both, and it is not that of the dense branch."""
  found = results(run, *SPARSE)
  dense = results(run, "--config.sparse.threshold=0")
  assert found["sparse"] == {"threshold": 0.3, "tile": 8}
  assert "sparse" not in dense
  assert found["semantic"] == dense["semantic"]
  assert found["error"]["AUROC"] != dense["error"]["AUROC"]  # P_ep reads the detail logits
  config = load_config(run)
  config.num_devices = 1
  config.sparse.update(threshold=0.3, tile=8)
  network, source = load(run, config), assemble.dataset(config).source("val")
  table = {name: np.zeros((3, 3), np.int64) for name in ("labels", "detail_labels")}
  for index in range(len(source)):
    sample = source[index]
    out, valid = network.predict(sample["image"]), sample["label"] != 255
    for name, counts in table.items():
      np.add.at(counts, (sample["label"][valid], getattr(out, name)[valid]), 1)
  for name, key in (("labels", "fused"), ("detail_labels", "detail")):
    own = segmentation_scores(table[name], network.info.classes)
    assert own["IoU"] == pytest.approx(found[key]["IoU"], abs=1e-6)


def test_sparse_correction_is_benched(run, capsys, monkeypatch):
  monkeypatch.setattr(bench, "THRESHOLDS", (0.1,))
  monkeypatch.setattr(rounds, "ROUNDS", 2)
  assert (
    main(
      [
        "bench",
        "--what=sparse",
        f"--workdir={run}",
        "--config.sparse.tile=8",
        "--config.sparse.threshold=0.03",
        "--json",
      ]
    )
    == 0
  )
  found = json.loads(capsys.readouterr().out)
  dense, *others = found["rows"]
  assert (dense["threshold"], dense["wanted"], dense["worked"], dense["saved"]) == (0, 100, 100, 0)
  assert [row["threshold"] for row in others] == [0.03, 0.1]
  assert others[0]["wanted"] >= others[1]["wanted"]
  assert all(0 < row["worked"] <= 100 and 0 <= row["mIoU"] <= 100 for row in others)
  show(found, bench.table, False)
  assert "% saved" in capsys.readouterr().out
  assert main(["bench", "--what=sparse", f"--workdir={run}", "--size=64x64"]) == 2


def test_guided_views_are_told_with_the_scores_and_benched(run, capsys, monkeypatch):
  flags = ("--config.views.mirror=True", "--config.views.tile=16", "--config.views.margin=8")
  found = results(run, *flags, "--config.views.share=0.4")
  assert (found["views"]["share"], found["views"]["tile"]) == (0.4, 16)
  capsys.readouterr()
  monkeypatch.setattr(bench_views, "SHARES", (0.4,))
  monkeypatch.setattr(rounds, "ROUNDS", 1)
  assert main(["bench", "--what=views", f"--workdir={run}", *flags, "--json"]) == 0
  found = json.loads(capsys.readouterr().out)
  assert [row["views"] for row in found["rows"]] == ["one", "all", "0.4"]
  assert [row["gain"] for row in found["rows"][:2]] == pytest.approx([0, 100], abs=100)
  show(found, bench_views.table, False)
  assert "% of the gain" in capsys.readouterr().out
