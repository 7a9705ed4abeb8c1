import logging
import pickle

import numpy as np
import pytest
from PIL import Image

from errseg_jax.data import datasets
from errseg_jax.data.checks import check_split
from errseg_jax.errors import UserError

ALL_VALUES = np.resize(np.arange(151, dtype=np.uint8), (12, 13))
FIRST = "ADE_train_00000001"


@pytest.fixture
def root(tmp_path, write_pair):
  """Two training samples and a validation sample."""
  for folder, names in (("training", (FIRST, "ADE_train_00000002")), ("validation", ("ADE_val_00000001",))):
    for name in names:
      label = tmp_path / f"annotations/{folder}/{name}.png"
      write_pair(tmp_path / f"images/{folder}/{name}.jpg", label, ALL_VALUES, size=(12, 13))
  return tmp_path


def message(root, split="train"):
  with pytest.raises(UserError) as caught:
    datasets.build("ade20k", root=str(root)).source(split)[0]
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_values_are_shifted_by_one_and_0_is_ignored(root):
  dataset = datasets.build("ade20k", root=str(root))
  source = pickle.loads(pickle.dumps(dataset.source("train")))
  assert source.names == (FIRST, "ADE_train_00000002")
  expected = np.where(ALL_VALUES == 0, 255, ALL_VALUES.astype(int) - 1)
  np.testing.assert_array_equal(source[1]["label"], expected)
  assert source[0]["image"].shape == (12, 13, 3)
  assert dataset.source("val").names == ("ADE_val_00000001",)


def test_class_names_and_colours_are_the_benchmark_s():
  info = datasets.build("ade20k").info
  assert len(set(info.classes)) == len(info.palette) == 150
  # 1, 13, 59, 131 and 150 of objectInfo150.txt.
  named = [info.classes[i] for i in (0, 12, 58, 130, 149)]
  assert named == ["wall", "person", "screen door", "screen", "flag"]
  assert (info.palette[0], info.palette[2], info.palette[149]) == (
    (120, 120, 120),
    (6, 230, 230),
    (92, 0, 255),
  )
  assert all(0 <= value <= 255 for colour in info.palette for value in colour)


def test_a_missing_label_is_named(root):
  label = root / f"annotations/training/{FIRST}.png"
  label.unlink()
  text = message(root)
  assert f"{FIRST}.jpg: has no label" in text
  assert str(label) in text


@pytest.mark.parametrize("value", [151, 255])
def test_labels_of_another_form_are_recognised(root, value):
  label = ALL_VALUES.copy()
  label[0, 0] = value
  Image.fromarray(label).save(root / f"annotations/training/{FIRST}.png")
  text = message(root)
  assert f"{FIRST}.png: label value {value} " in text
  assert "1..150" in text
  assert "1 was subtracted" in text


@pytest.mark.parametrize(
  ("lost", "words"),
  [
    ("images/training", ("images/training: no such folder", "holds images/training/*.jpg")),
    ("annotations/training", ("annotations/training: no such folder", "ADEChallengeData2016")),
  ],
)
def test_a_missing_folder_names_the_layout(root, lost, words):
  (root / lost).rename(root / "elsewhere")
  for word in words:
    assert word in message(root)
  (root / lost).mkdir()
  assert f"{lost}: holds no " in message(root)


def test_other_splits_and_an_unset_root_are_refused(root, monkeypatch):
  assert "train, val" in message(root, "testing")
  monkeypatch.delenv("ADE20K", raising=False)
  assert "environment variable ADE20K" in message("")


def test_a_count_other_than_the_published_one_is_a_warning(root, caplog):
  dataset = datasets.build("ade20k", root=str(root))
  with caplog.at_level(logging.WARNING, logger="errseg"):
    dataset.source("val")
  assert [r.message for r in caplog.records] == ["ade20k val: found 1 of 2000 published images"]
  assert "found 2 of 20210" in check_split(dataset, "train").warnings[0]
