"""The command confusion on a finished run, as a user would call it."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from errseg_jax import assemble
from errseg_jax.cli import main
from errseg_jax.inference.confusion import load_confusion
from errseg_jax.train.restore import load
from errseg_jax.train.workdir import load_config


@pytest.fixture
def run(trained, tmp_path):
  """(*flags) -> a copy of the finished run, counted."""
  workdir = tmp_path / "run"
  shutil.copytree(trained, workdir)

  def confusion(*flags, status=0):
    words = ["confusion", f"--workdir={workdir}", "--config.num_devices=1", *flags]
    assert main(words) == status
    return workdir

  return confusion


def counted(network, source):
  """The confusion matrix, image by image."""
  counts = np.zeros((3, 3), np.int64)
  for sample in (source[i] for i in range(len(source))):
    valid = sample["label"] != 255
    np.add.at(counts, (sample["label"][valid], network.predict(sample["image"]).semantic_labels[valid]), 1)
  return counts


def test_the_file_holds_the_counts_of_the_frozen_network(run, trained):
  workdir = run("--split=val")
  counts, classes = load_confusion(workdir / "confusion" / "val.json")
  config = load_config(trained)
  np.testing.assert_array_equal(counts, counted(load(trained), assemble.dataset(config).source("val")))
  content = json.loads((workdir / "confusion" / "val.json").read_text())
  assert (content["schema"], content["split"], content["num_images"]) == (1, "val", 5)
  assert classes == ("ground", "wall", "sign")
  np.testing.assert_allclose(content["row_normalised"], counts / counts.sum(1, keepdims=True))
  assert content["settings"] == json.loads(config.groups.to_json())


def test_train_is_what_the_network_was_trained_on(run, trained, shared_data):
  """With a held-out part it is less than the whole split, and that part is `choose`."""
  held = [
    "--config.splits.choose=",
    "--config.splits.choose_fraction=0.4",
    f"--config.data.root={shared_data}",
  ]
  workdir = run(*held)
  run(*held, "--split=choose")
  config = load_config(trained)
  config.splits.choose, config.splits.choose_fraction = "", 0.4
  sources = assemble.splits(config).sources(assemble.dataset(config))
  assert len(sources["semantic"]) == 8
  for split, source in (("train", sources["semantic"]), ("choose", sources["choose"])):
    counts, _ = load_confusion(workdir / "confusion" / f"{split}.json")
    np.testing.assert_array_equal(counts, counted(load(trained), source))


def test_the_picture_is_one_and_the_run_itself_stays_as_it_was(run, trained):
  before = {p.relative_to(trained): p.read_bytes() for p in trained.rglob("*") if p.is_file()}
  workdir = run("--split=val")
  after = {p.relative_to(workdir): p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
  assert {k: after[k] for k in before} == before
  assert sorted(str(k) for k in after.keys() - before.keys()) == ["confusion/val.json", "confusion/val.png"]
  with Image.open(workdir / "confusion" / "val.png") as image:
    assert min(image.size) > 300
    assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 10


def test_pairs_and_groups_are_printed(run, capsys):
  workdir = run("--split=val", "--config.groups.threshold=0.001")
  out = capsys.readouterr().out
  counts, classes = load_confusion(workdir / "confusion" / "val.json")
  wrong = counts / counts.sum(1, keepdims=True) * (1 - np.eye(3))
  i, j = divmod(int(wrong.argmax()), 3)
  row = next(line for line in out.splitlines() if classes[i] in line and classes[j] in line)
  assert f"{100 * wrong[i, j]:.1f}" in row
  assert f"{counts[i, j]:,}" in row
  assert "ground, wall, sign" in out
  assert "between groups and outside" in out


def test_groups_by_hand_are_framed_in_place_of_found_ones(run, capsys):
  flags = ["--split=val", "--json"]
  workdir = run(*flags, "--config.groups.named=(('sign','wall'),)")
  content = json.loads(capsys.readouterr().out)
  assert content == json.loads((workdir / "confusion" / "val.json").read_text())
  (group,) = content["groups"]
  n = np.array(content["row_normalised"])
  assert group == {"classes": ["wall", "sign"], "confusion": pytest.approx(n[1, 2] + n[2, 1])}
  total = (n * (1 - np.eye(3))).sum()
  assert content["confusion_outside"] == pytest.approx(total - group["confusion"])


def test_where_nothing_is_confused_enough_the_nearest_pair_is_said(run, capsys):
  workdir = run("--split=val", "--config.groups.threshold=0.99")
  assert json.loads((workdir / "confusion" / "val.json").read_text())["groups"] == []
  assert "lower --config.groups.threshold" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--split=nowhere"], "nowhere"),
    (["--config.groups.method=kmeans"], "groups.method='kmeans'"),
    (["--config.groups.threshold=0"], "groups.threshold=0.0"),
    (["--config.groups.max_groups=0"], "groups.max_groups=0"),
    (["--config.groups.treshold=1"], "did you mean 'threshold'"),
    (["--config.groups.named=(('sing','wall'),)"], "did you mean 'sign'"),
    (["--config.groups.named=voc"], "'background'"),
    (["--config.groups.named=nothing"], "cityscapes, voc"),
  ],
)
def test_mistakes_are_one_line_before_anything_is_counted(run, capsys, flags, words):
  workdir = run(*flags, status=2)
  error = capsys.readouterr().err
  assert words in error
  assert error.count("\n") == 1
  assert not (workdir / "confusion").exists()


def test_a_class_without_a_pixel_has_a_row_of_zero_in_the_file(run, own_data):
  workdir = run("--split=val", f"--config.data.root={own_data}")
  before, _ = load_confusion(workdir / "confusion" / "val.json")
  for path in (own_data / "labels" / "val").glob("*.png"):
    label = np.asarray(Image.open(path)).copy()
    label[label == 2] = 255  # no pixel of class "sign" is left
    Image.fromarray(label).save(path)
  run("--split=val", f"--config.data.root={own_data}")
  after, _ = load_confusion(workdir / "confusion" / "val.json")
  np.testing.assert_array_equal(after, before * np.array([[1], [1], [0]]))
  content = json.loads((workdir / "confusion" / "val.json").read_text())
  assert content["row_normalised"][2] == [0, 0, 0]
