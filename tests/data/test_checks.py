import io

import numpy as np
from PIL import Image
from rich.console import Console

from errseg_jax.data import datasets
from errseg_jax.data.checks import check_split, render_table


def _build(root, **kwargs):
  return datasets.build("folders", **{"root": str(root), "num_classes": 2, **kwargs})


def test_counts_are_those_of_the_labels(folders):
  report = check_split(_build(folders), "train")
  # Each label is an 8 x 10 identity whose first row is ignored.
  np.testing.assert_array_equal(report.pixels, [2 * 63, 2 * 7])
  np.testing.assert_array_equal(report.present, [2, 2])
  assert (report.images, report.ignored, report.sizes) == (2, 20, {(8, 10): 2})
  assert report.share.sum() == 1
  assert report.ignore_share == 20 / 160
  assert not report.problems
  assert not report.warnings


def test_all_problems_are_found_not_the_first_alone(folders):
  Image.fromarray(np.full((8, 10), 9, np.uint8)).save(folders / "labels/train/a.png")
  (folders / "images/train/b.jpg").write_bytes(b"no image")
  Image.new("RGB", (10, 8)).save(folders / "images/train/c.jpg")
  calls = []
  report = check_split(_build(folders), "train", lambda done, count: calls.append((done, count)))
  for name in ("a.png", "b.jpg", "c.jpg"):
    assert sum(name in line.split(":")[0] for line in report.problems) == 1
  assert all("\n" not in line for line in report.problems)
  assert report.images == 0
  assert calls == [(1, 2), (2, 2)]


def test_absent_classes_and_much_ignore_are_pointed_out(folders):
  report = check_split(_build(folders, num_classes=3), "train")
  assert report.absent == (2,)
  assert "no pixel of class 2" in report.warnings[0]
  report = check_split(_build(folders, label_map={0: 255, 1: 0}), "train")
  assert any("ignored" in line for line in report.warnings)


def test_a_mask_of_0_and_255_is_recognised(folders):
  for stem in ("a", "b"):
    mask = np.where(np.eye(8, 10) > 0, 255, 0).astype(np.uint8)
    Image.fromarray(mask).save(folders / f"labels/train/{stem}.png")
  report = check_split(_build(folders), "train")
  assert any("{0: 0, 255: 1}" in line for line in report.warnings)


def test_the_table_shows_every_class(folders):
  dataset = _build(folders, num_classes=3)
  console = Console(width=100, record=True, file=io.StringIO())
  console.print(render_table(check_split(dataset, "train"), dataset.info))
  text = console.export_text()
  assert all(name in text for name in dataset.info.classes)
  assert "absent" in text
