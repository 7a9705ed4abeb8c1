import json

import numpy as np
import pytest
from PIL import Image

from errseg_jax.cli import main
from errseg_jax.pixel_losses import InverseFrequency, MedianFrequency


@pytest.fixture
def root(tmp_path):
  for kind in ("images", "labels"):
    (tmp_path / kind / "train").mkdir(parents=True)
  rng = np.random.default_rng(0)
  for number, size in enumerate([(8, 10), (8, 10), (6, 12)]):
    Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / f"images/train/{number}.png")
    label = rng.integers(0, 2 + (number == 2), size).astype(np.uint8)
    label[0] = 255
    Image.fromarray(label).save(tmp_path / f"labels/train/{number}.png")
  return tmp_path


def run(root, *flags):
  given = [f"--config.data.root={root}", "--config.data.num_classes=3"]
  return main(["data", "stats", "--config=configs/folders.py", *given, *flags])


def test_statistics_are_those_of_the_files(root, capsys):
  assert run(root, "--json") == 0
  found = json.loads(capsys.readouterr().out)
  images = [np.asarray(Image.open(root / f"images/train/{i}.png")) for i in range(3)]
  labels = [np.asarray(Image.open(root / f"labels/train/{i}.png")) for i in range(3)]
  values = np.concatenate([image.reshape(-1, 3) for image in images]).astype(float)
  np.testing.assert_allclose(found["mean"], values.mean(0))
  np.testing.assert_allclose(found["std"], values.std(0))
  counts = np.stack([np.bincount(label[label < 3], minlength=3) for label in labels])
  assert [row["pixels"] for row in found["classes"]] == counts.sum(0).tolist()
  assert [row["images"] for row in found["classes"]] == [3, 3, 1]
  assert found["together"] == [[3, 3, 1], [3, 3, 1], [1, 1, 1]]
  assert found["sizes"] == [{"height": 6, "width": 12, "images": 1}, {"height": 8, "width": 10, "images": 2}]
  for key, loss in (("inverse", InverseFrequency), ("median_frequency", MedianFrequency)):
    np.testing.assert_allclose([row[key] for row in found["classes"]], loss.counted(counts))


def test_tables_show_sizes_and_what_comes_together(root, capsys):
  assert run(root) == 0
  printed = capsys.readouterr().out
  rows = [line.split() for line in printed.replace("│", " ").splitlines()]
  assert ["10", "x", "8", "2", "66.7"] in rows
  assert ["class", "0", "class", "1", "100,", "class", "2", "33"] in rows
  assert ["class", "2", "class", "0", "100,", "class", "1", "100"] in rows


def test_the_folder_gets_json_and_plot_and_bad_samples_are_told(root, tmp_path, capsys):
  Image.new("L", (10, 8), 9).save(root / "labels/train/0.png")
  assert run(root, f"--out={tmp_path / 'new/out'}") == 0
  printed = capsys.readouterr().out
  assert "class 2" in printed
  assert "1 samples left out" in printed
  assert json.loads((tmp_path / "new/out/stats.json").read_text())["left_out"] == 1
  assert "<svg" in (tmp_path / "new/out/stats.svg").read_text()


def test_a_split_without_a_readable_sample_is_one_line(root, capsys):
  for number in range(3):
    (root / f"images/train/{number}.png").write_bytes(b"nothing")
  assert run(root) == 2
  assert "no sample can be read" in capsys.readouterr().err
