import io
import json
import time

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from errseg_jax.cli import main
from errseg_jax.data import datasets
from errseg_jax.data.checks import check_split, render_table
from errseg_jax.data.duplicates import duplicates
from errseg_jax.data.faults import FAULTS
from errseg_jax.data.images import read_image
from errseg_jax.errors import UserError


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


def _picture(seed, size=(48, 64)):
  """A photograph's stand-in: smooth, and unlike any other seed's."""
  small = np.random.default_rng(int(seed)).integers(0, 256, (7, 9, 3), np.uint8)
  return Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC)


def _kinds(report):
  return sorted(finding.kind for finding in report.findings)


def _plant_wide(folder, stem):
  Image.fromarray(np.full((48, 64), 300, np.uint16)).save(folder / f"labels/train/{stem}.png")


def _plant_cut(folder, stem):
  path = folder / f"images/train/{stem}.jpg"
  path.write_bytes(path.read_bytes()[:400])


def _plant_rotated(folder, stem):
  exif = Image.Exif()
  exif[0x0112] = 3  # upside down
  _picture(stem).save(folder / f"images/train/{stem}.jpg", exif=exif)


def _plant_deep(folder, stem):
  (folder / f"images/train/{stem}.jpg").unlink()
  Image.fromarray(np.full((48, 64), 3000, np.uint16)).save(folder / f"images/train/{stem}.png")


def _copy_to_val(folder, stem, **options):
  """One image of val is that of train, written anew."""
  image = Image.open(folder / f"images/train/{stem}.jpg")
  number = int(stem) + int(stem) // 100  # of 40 faults each gets another target
  targets = sorted((folder / "images/val").iterdir(), key=lambda path: int(path.stem))
  target = targets[number % len(targets)]
  target.unlink()
  if options:  # smaller and compressed harder
    image.resize((56, 42)).save(target, quality=60)
    Image.new("L", (56, 42)).save(folder / f"labels/val/{target.stem}.png")
  else:
    image.save(target.with_suffix(".png"))


FAULTY = {
  "unpaired": lambda folder, stem: (folder / f"labels/train/{stem}.png").unlink(),
  "undecodable": _plant_cut,
  "size": lambda folder, stem: Image.new("L", (64, 47)).save(folder / f"labels/train/{stem}.png"),
  "colour_mask": lambda folder, stem: Image.new("RGB", (64, 48)).save(folder / f"labels/train/{stem}.png"),
  "deep_label": _plant_wide,
  "deep_image": _plant_deep,
  "label_value": lambda folder, stem: Image.new("L", (64, 48), 7).save(folder / f"labels/train/{stem}.png"),
  "all_ignored": lambda folder, stem: Image.new("L", (64, 48), 255).save(folder / f"labels/train/{stem}.png"),
  "duplicate": _copy_to_val,
  "near_duplicate": lambda folder, stem: _copy_to_val(folder, stem, smaller=True),
  "grey": lambda folder, stem: _picture(stem).convert("L").save(folder / f"images/train/{stem}.jpg"),
  "cmyk": lambda folder, stem: _picture(stem).convert("CMYK").save(folder / f"images/train/{stem}.jpg"),
  "rotated": _plant_rotated,
}


def _make_set(root, train, val):
  """Pairs with numbers for names."""
  for split, numbers in (("train", range(train)), ("val", range(train, train + val))):
    for kind in ("images", "labels"):
      (root / kind / split).mkdir(parents=True)
    for number in numbers:
      _picture(number).save(root / f"images/{split}/{number}.jpg", quality=92)
      label = np.zeros((48, 64), np.uint8)
      label[number % 40 :] = 1
      Image.fromarray(label).save(root / f"labels/{split}/{number}.png")


def _check(root, capsys):
  flags = [f"--config.data.root={root}", "--config.data.num_classes=2"]
  status = main(["data", "check", "--config=configs/folders.py", *flags, "--json"])
  return status, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("kind", FAULTY)
def test_each_fault_is_told_by_its_kind(tmp_path, capsys, kind):
  _make_set(tmp_path, 24, 8)
  assert _check(tmp_path, capsys)[1]["findings"] == []
  FAULTY[kind](tmp_path, "3")
  status, found = _check(tmp_path, capsys)
  assert [finding["kind"] for finding in found["findings"]] == [kind]
  (finding,) = found["findings"]
  assert finding["fix"] == FAULTS[kind].fix
  assert str(tmp_path) in finding["message"]
  assert (status, finding["fatal"]) == ((2, True) if FAULTS[kind].fatal else (0, False))


def test_what_was_found_is_counted_by_kind_and_every_line_is_there(tmp_path, capsys):
  _make_set(tmp_path, 8, 8)
  for kind, stem in (("size", "1"), ("size", "2"), ("grey", "5")):
    FAULTY[kind](tmp_path, stem)
  flags = [f"--config.data.root={tmp_path}", "--config.data.num_classes=2"]
  assert main(["data", "check", "--config=configs/folders.py", *flags]) == 2
  printed = capsys.readouterr()
  assert printed.err.count("errseg: ") == 2
  assert FAULTS["size"].what[:20] in printed.out
  assert "is grey" in printed.out


def test_splits_that_cannot_train_are_told_before_training_is(tmp_path, capsys):
  _make_set(tmp_path, 8, 8)
  status, found = _check(tmp_path, capsys)
  assert status == 2
  assert [finding["kind"] for finding in found["findings"]] == ["splits"]
  assert "8 training images are too few" in found["findings"][0]["message"]


def test_an_image_that_is_listed_twice_is_told(tmp_path):
  _make_set(tmp_path, 3, 0)
  rows = [f"images/train/{n}.jpg labels/train/{n}.png" for n in (0, 1, 2, 1)]
  rows.append("images/train/0.jpg labels/train/2.png")  # with another label
  (tmp_path / "train.txt").write_text("\n".join(rows))
  dataset = datasets.build("pairs", root=str(tmp_path), num_classes=2)
  report = check_split(dataset, "train")
  assert [f.kind for f in report.findings] == ["repeated", "repeated"]
  assert "2 samples are named 0" in report.problems[0]
  with pytest.raises(UserError, match=r"2 samples are named 0; .* 1 more"):
    dataset.source("train")


def test_a_file_that_no_reader_knows_to_tell_loses_nothing_else(tmp_path, monkeypatch):
  _make_set(tmp_path, 3, 0)

  def read(path):
    if path.endswith("1.jpg"):
      raise AttributeError("no such tag")
    return read_image(path)

  monkeypatch.setattr("errseg_jax.data.datasets.base.read_image", read)
  report = check_split(_build(tmp_path), "train")
  assert report.images == 2
  assert [f.kind for f in report.findings] == ["undecodable"]
  assert "1.jpg: cannot be read (AttributeError: no such tag)" in report.problems[0]


def test_flat_images_look_like_nothing(tmp_path):
  for split in ("train", "val"):
    for kind in ("images", "labels"):
      (tmp_path / kind / split).mkdir(parents=True)
    for number, value in enumerate((10, 90)):
      Image.new("RGB", (20, 16), (value + (split == "val"),) * 3).save(
        tmp_path / f"images/{split}/{number}.png"
      )
      Image.new("L", (20, 16)).save(tmp_path / f"labels/{split}/{number}.png")
  reports = [check_split(_build(tmp_path), split) for split in ("train", "val")]
  assert duplicates({report.split: report.fingerprints for report in reports}) == []


def test_threads_find_the_same_in_the_same_order(tmp_path):
  _make_set(tmp_path, 30, 1)
  for kind, stem in (("size", "1"), ("grey", "5"), ("label_value", "22")):
    FAULTY[kind](tmp_path, stem)
  one, many = (check_split(_build(tmp_path), "train", threads=threads) for threads in (1, 5))
  assert one.findings == many.findings
  assert one.fingerprints == many.fingerprints
  np.testing.assert_array_equal(one.together, many.together)


@pytest.mark.proof
def test_forty_faults_among_ten_thousand_pairs(tmp_path, capsys):
  _make_set(tmp_path, 9000, 1000)
  kinds, planted = list(FAULTY), []
  for number in range(40):
    planted.append(kinds[number % len(kinds)])
    FAULTY[planted[-1]](tmp_path, str(100 * number + 11))
  start = time.perf_counter()
  _, found = _check(tmp_path, capsys)
  seconds = time.perf_counter() - start
  with capsys.disabled():
    print(f"\n10,000 pairs checked in {seconds:.1f} s")
  assert sorted(finding["kind"] for finding in found["findings"]) == sorted(planted)
