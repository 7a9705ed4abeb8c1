"""evaluate, report and predict on a finished run, as a user would call them."""

import csv
import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as sk

from errseg_jax import assemble
from errseg_jax.cli import main
from errseg_jax.inference.choice import Choice
from errseg_jax.predict import predict_file
from errseg_jax.train.restore import load
from errseg_jax.train.workdir import load_config


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
  """A copy of the finished run, evaluated on one device."""
  workdir = tmp_path_factory.mktemp("evaluated") / "run"
  shutil.copytree(trained, workdir)
  assert main(["evaluate", f"--workdir={workdir}", "--config.num_devices=1"]) == 0
  return workdir


def results_of(workdir):
  text = (workdir / "results.json").read_text()
  assert "NaN" not in text
  return json.loads(text)


def test_results_hold_every_promised_field(evaluated):
  results = results_of(evaluated)
  assert results["schema"] == 1
  for system in ("semantic", "detail", "fused"):
    assert {"mIoU", "aAcc", "mAcc", "mDice", "IoU", "Acc"} <= results[system].keys()
  scores = {"AUROC", "AUPR_error", "AUPR_success", "FPR95", "AURC", "AUGRC", "ECE", "rate"}
  own = {
    "threshold",
    "IoU",
    "precision",
    "recall",
    "hard_recall",
    "hard_ratio",
    "by_threshold",
    "conventions",
  }
  assert scores | own <= results["error"].keys()
  for name in ("max_probability", "temperature", "entropy", "margin"):
    assert scores <= results["error"]["baselines"][name].keys()
  assert {"mIoU_img", "accuracy_mae", "accuracy_corr", "mIoU_mae", "mIoU_corr"} <= results[
    "image_level"
  ].keys()
  assert {"semantic_ms", "error_ms", "detail_ms", "image_size"} <= results["speed"].keys()
  assert results["chosen"]["candidates"]
  assert results["calibration"]["temperature"] == Choice.load(evaluated).temperature


def test_another_split_leaves_the_reported_scores_alone(evaluated):
  before = results_of(evaluated)
  assert main(["evaluate", f"--workdir={evaluated}", "--split=choose", "--config.num_devices=1"]) == 0
  assert results_of(evaluated) == before
  other = json.loads((evaluated / "results_choose.json").read_text())
  assert (before["split"], other["split"], other["num_images"]) == ("val", "choose", 4)
  assert (evaluated / "evaluation_choose.npz").exists()


def test_each_half_is_scored_by_its_own_choice(evaluated, tmp_path):
  workdir = tmp_path / "run"
  shutil.copytree(evaluated, workdir)
  network = load(workdir)
  own = [dataclasses.replace(network.choice, fusion="mask", threshold=0.02, offset=3.0)]
  own.append(dataclasses.replace(network.choice, fusion="semantic", threshold=0.9))
  dataclasses.replace(network.choice, halves=tuple(own)).save(workdir)
  assert main(["evaluate", f"--workdir={workdir}", "--config.num_devices=1"]) == 0
  source = assemble.dataset(network.config).source("val")
  confusion, flagged = np.zeros((3, 3)), np.zeros((2, 2))
  for i in range(len(source)):
    one = dataclasses.replace(network, choice=own[i >= -(-len(source) // 2)])
    sample, out = source[i], one.predict(source[i]["image"])
    valid = sample["label"] != 255
    np.add.at(confusion, (sample["label"][valid], out.labels[valid]), 1)
    wrong = (out.semantic_labels != sample["label"])[valid]
    mask = (out.error_probability > one.choice.threshold)[valid]
    np.add.at(flagged, (mask.astype(int), wrong.astype(int)), 1)
  union = confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
  results = results_of(workdir)
  assert results["fused"]["mIoU"] == pytest.approx(100 * (np.diag(confusion) / union).mean(), abs=0.05)
  assert results["error"]["recall"] == pytest.approx(100 * flagged[1, 1] / flagged[:, 1].sum(), abs=0.05)
  assert [half["fusion"] for half in results["chosen"]["halves"]] == ["mask", "semantic"]


def test_further_scores_and_confidnet_on_request(evaluated, tmp_path, capsys):
  workdir = tmp_path / "run"
  shutil.copytree(evaluated, workdir)
  words = ["evaluate", f"--workdir={workdir}", "--config.num_devices=1"]
  assert main([*words, "--scores=tta,dropout"]) == 2
  assert "did you mean 'mc_dropout'?" in capsys.readouterr().err
  assert main([*words, "--scores=mc_dropout,tta", "--confidnet"]) == 0
  before, after = results_of(evaluated), results_of(workdir)
  assert before["error"]["conventions"]["confidnet"] is None
  free = after["error"]["baselines"]
  for name in ("mc_dropout", "tta"):
    assert name not in before["error"]["baselines"]
    assert free[name]["rate"] == free["max_probability"]["rate"]
    assert free[name]["AUROC"] > 50
  network = load(workdir)
  source, z, wrong = assemble.dataset(network.config).source("val"), [], []
  for sample in (source[i] for i in range(len(source))):
    out = network.predict(sample["image"])
    z.append(out.error_probability.ravel())
    wrong.append((out.semantic_labels != sample["label"]).ravel())  # 255 is never predicted
  z, wrong = np.concatenate(z), np.concatenate(wrong)
  scores = after["error"]["conventions"]["confidnet"]
  assert scores["rate"] == pytest.approx(100 * wrong.mean(), abs=0.05)
  assert scores["AUPR_error"] == pytest.approx(100 * sk.average_precision_score(wrong, z), abs=0.3)
  assert scores["rate"] == after["error"]["conventions"]["confidnet_max_probability"]["rate"]


def test_the_sweep_agrees_with_the_chosen_mask(evaluated):
  results = results_of(evaluated)
  chosen = results["chosen"]
  if chosen["fusion"] == "mask":
    row = next(r for r in results["error"]["by_threshold"] if r["t"] == chosen["threshold"])
    assert row["mIoU"] == pytest.approx(results["fused"]["mIoU"], abs=1e-9)


def test_several_devices_score_as_one(evaluated, trained, tmp_path):
  workdir = tmp_path / "run"
  shutil.copytree(trained, workdir)
  assert main(["evaluate", f"--workdir={workdir}", "--config.num_devices=2"]) == 0
  one, two = results_of(evaluated), results_of(workdir)
  assert two["fused"]["mIoU"] == pytest.approx(one["fused"]["mIoU"], abs=0.1)
  assert two["error"]["AUROC"] == pytest.approx(one["error"]["AUROC"], abs=0.1)


def test_report_is_one_file_without_network(evaluated):
  assert main(["report", f"--workdir={evaluated}"]) == 0
  page = (evaluated / "report.html").read_text()
  assert "gallery-data" in page
  assert not re.search(r"(src|href)=[\"']https?:", page)


def test_several_runs_stand_side_by_side(evaluated, tmp_path, capsys):
  other = tmp_path / "other"
  shutil.copytree(evaluated, other)
  results = results_of(other)
  results["fused"]["mIoU"] += 1.5
  results["error"]["FPR95"] += 2
  (other / "results.json").write_text(json.dumps(results))
  assert main(["report", str(evaluated), str(other), "--show=3"]) == 0
  page = (evaluated / "comparison.html").read_text()
  assert "The best corrected labels are those of other: mIoU" in page
  assert page.count('<article class="item"') == 6
  assert re.search(r'class="good">[\d.]+ <small>\+1.50', page)  # mIoU
  assert re.search(r'class="bad">[\d.]+ <small>\+2.00', page)  # FPR95
  assert not (other / "comparison.html").exists()
  results["num_images"] += 1
  (other / "results.json").write_text(json.dumps(results))
  capsys.readouterr()
  assert main(["report", str(evaluated), str(other)]) == 2
  assert "was evaluated on other images than" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("words", "told"),
  [
    (["--show=0"], "--show=0 must be 1..1000"),
    (["--show=x"], "whole number"),
    (["W"], "in one way"),
  ],
)
def test_bad_words_of_a_report_are_one_line(evaluated, capsys, words, told):
  assert main(["report", f"--workdir={evaluated}", *words]) == 2
  assert told in capsys.readouterr().err


def test_one_run_is_not_compared_with_itself(evaluated, capsys):
  assert main(["report", str(evaluated), f"{evaluated}/."]) == 2
  assert "named twice" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["[1", '{"issues": 3}'])
def test_a_damaged_list_of_issues_is_named(evaluated, tmp_path, capsys, damage):
  workdir = tmp_path / "run"
  shutil.copytree(evaluated, workdir)
  (workdir / "label_issues").mkdir()
  (workdir / "label_issues" / "label_issues.json").write_text(damage)
  assert main(["report", str(workdir)]) == 2
  assert "label_issues.json is damaged" in capsys.readouterr().err


def test_predict_writes_what_python_gives(evaluated, tmp_path):
  config = load_config(evaluated)
  image = np.random.default_rng(0).integers(0, 255, (37, 53, 3), dtype=np.uint8)
  folder, out = tmp_path / "images", tmp_path / "out"
  folder.mkdir()
  for name in ("a", "b"):
    Image.fromarray(image).save(folder / f"{name}.png")
  assert main(["predict", f"--workdir={evaluated}", f"--output={out}", str(folder)]) == 0
  expected = load(evaluated).predict(image)
  assert config.data.num_classes > expected.labels.max()
  np.testing.assert_array_equal(np.array(Image.open(out / "a_corrected.png")), expected.labels)
  np.testing.assert_array_equal(np.array(Image.open(out / "a_labels.png")), expected.semantic_labels)
  error = np.array(Image.open(out / "a_error.png"))
  np.testing.assert_allclose(error / 255, expected.error_probability, atol=0.5 / 255 + 1e-6)
  assert Image.open(out / "b_overlay.png").size == (53, 37)
  with (out / "predictions.csv").open() as file:
    rows = list(csv.DictReader(file))
  assert [float(r["expected_accuracy"]) for r in rows] == sorted(float(r["expected_accuracy"]) for r in rows)
  assert float(rows[0]["expected_accuracy"]) == pytest.approx(100 * expected.confidence.mean(), abs=0.01)
  right = [expected.confidence[expected.semantic_labels == c] for c in range(3)]
  want = [100 * r.mean() / (2 - r.mean()) if r.size else None for r in right]
  assert [float(rows[0][f"iou/{c}"] or "nan") for c in ("ground", "wall", "sign")] == pytest.approx(
    [float("nan") if w is None else w for w in want], abs=0.01, nan_ok=True
  )
  present = [w for w in want if w is not None]
  assert float(rows[0]["expected_mIoU"]) == pytest.approx(np.mean(present), abs=0.01)


def test_predict_refuses_to_write_among_the_images(evaluated, tmp_path, capsys):
  Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
  assert main(["predict", f"--workdir={evaluated}", f"--output={tmp_path}", str(tmp_path)]) == 2
  assert "name another" in capsys.readouterr().err
  assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png"]


def test_a_run_on_smaller_samples_predicts_files_at_that_scale(trained, shared_data):
  network = load(trained)
  image = np.asarray(Image.open(shared_data / "images/val/val_0.png"))
  large = image.repeat(2, 0).repeat(2, 1)
  network.config.data.downscale = 2
  out = predict_file(network, large)
  assert out.labels.shape == large.shape[:2]
  want = network.predict(image)
  np.testing.assert_array_equal(out.labels[::2, ::2], want.labels)
  assert np.abs(out.error_probability[1::2, 1::2] - want.error_probability).mean() < 0.05


def test_predictions_go_on_where_they_were_cut_short(trained, shared_data, tmp_path, monkeypatch):
  from errseg_jax import predict as module

  images = shared_data / "images" / "val"
  words = ["predict", f"--workdir={trained}", str(images)]
  assert main([*words, f"--output={tmp_path / 'whole'}"]) == 0
  seen, predict_file = [], module.predict_file

  def counted(*args):
    seen.append(1)
    if len(seen) == 4:
      raise KeyboardInterrupt
    return predict_file(*args)

  monkeypatch.setattr(module, "predict_file", counted)
  output = [f"--output={tmp_path / 'cut'}"]
  assert main([*words, *output]) == 130
  assert not (tmp_path / "cut" / "predictions.csv").exists()
  (log,) = (tmp_path / "cut").glob(".predictions-*")
  with log.open("a") as file:
    file.write('\n{"key": "cut sho')
  assert main([*words, *output]) == 0
  assert len(seen) == 4 + 2  # of five images, three were done
  names = {path.name for path in (tmp_path / "whole").iterdir()}
  assert names == {path.name for path in (tmp_path / "cut").iterdir()}
  for name in names:
    assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_predictions_of_another_network_are_made_anew(trained, shared_data, tmp_path, monkeypatch):
  from errseg_jax import predict as module

  seen, predict_file = [], module.predict_file

  def counted(network, image, scores):
    seen.append(1)
    if len(seen) == 3:
      raise KeyboardInterrupt
    return predict_file(network, image, scores)

  monkeypatch.setattr(module, "predict_file", counted)
  words = ["predict", f"--workdir={trained}", str(shared_data / "images" / "val"), f"--output={tmp_path}"]
  assert main(words) == 130
  assert main([*words, "--config.views.mirror=True"]) == 0
  assert len(seen) == 3 + 5
