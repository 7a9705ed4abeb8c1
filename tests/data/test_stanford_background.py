import logging
import pickle

import numpy as np
import pytest

from errseg_jax.cli import main
from errseg_jax.data import datasets
from errseg_jax.data.checks import check_split
from errseg_jax.data.datasets.stanford_background import read_layers
from errseg_jax.errors import UserError

NAMES = tuple(f"{number:07}" for number in (34, 51, 59, 71, 100, 162, 3000323, 9005294, 9005273, 6000001, 12))
REGIONS = np.resize(np.arange(-1, 8), (12, 13))
SURFACES = np.resize(np.arange(-1, 3), (12, 13))


def write_label(root, name, values, task="regions"):
  path = root / "labels" / f"{name}.{task}.txt"
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(" ".join(map(str, row)) + "\n" for row in values))
  return path


@pytest.fixture
def root(tmp_path, write_pair):
  """Eleven images, so that folds differ in size."""
  for name in NAMES:
    write_pair(tmp_path / f"images/{name}.jpg", tmp_path / "unused.png", size=(12, 13))
    write_label(tmp_path, name, REGIONS)
    write_label(tmp_path, name, SURFACES, "surfaces")
    write_label(tmp_path, name, REGIONS + 300, "layers")
  return tmp_path


def build(root, **kwargs):
  return datasets.build("stanford_background", root=str(root), **kwargs)


def message(root, split="train", **kwargs):
  with pytest.raises(UserError) as caught:
    list(build(root, **kwargs).source(split))
  assert "\n" not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize(("task", "values", "count"), [("regions", REGIONS, 8), ("surfaces", SURFACES, 3)])
def test_ids_are_kept_and_minus_1_is_ignored(root, task, values, count):
  dataset = build(root, task=task)
  sample = pickle.loads(pickle.dumps(dataset.source("train")))[0]
  np.testing.assert_array_equal(sample["label"], np.where(values < 0, 255, values))
  assert sample["label"].dtype == np.uint8
  assert sample["image"].shape == (12, 13, 3)
  assert len(dataset.info.classes) == len(set(dataset.info.palette)) == count


def test_classes_are_those_published():
  info = datasets.build("stanford_background").info
  assert info.classes[:4] == ("sky", "tree", "road", "grass")
  assert info.classes[4:] == ("water", "building", "mountain", "foreground object")
  assert datasets.build("stanford_background", task="surfaces").info.classes == (
    "sky",
    "horizontal",
    "vertical",
  )


def test_layers_are_read_as_they_are(root):
  layers = read_layers(root / f"labels/{NAMES[0]}.layers.txt")
  assert layers.dtype == np.int32
  np.testing.assert_array_equal(layers, REGIONS + 300)
  assert "data.task='layers' is unknown" in message(root, task="layers")


@pytest.mark.parametrize("folds", [2, 5, 11])
def test_folds_part_the_images(root, folds):
  tests = []
  for fold in range(folds):
    dataset = build(root, folds=folds, fold=fold)
    train, test = dataset.source("train").names, dataset.source("test").names
    assert sorted(train + test) == sorted(NAMES)
    assert list(test) == sorted(test)
    assert len(test) in (11 // folds, -(-11 // folds))
    tests += test
  assert sorted(tests) == sorted(NAMES)


def test_folds_depend_on_the_seed_and_the_names_alone(root):
  first, again, other = (build(root, seed=seed).source("test").names for seed in (0, 0, 1))
  assert first == again != other
  # Whatever runs this, and on whichever version of anything.
  assert first == ("0000034", "0000100", "0000162")
  # An image without a label moves no other.
  for name in first:
    write_label(root, name, REGIONS).unlink()
  kept = build(root).scan("train")[0].names
  assert sorted(kept + first) == sorted(NAMES)


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"folds": 1}, "data.folds=1 must be at least 2"),
    ({"folds": 12}, "at most the 11 images"),
    ({"folds": 0}, "data.folds=0 must be"),
    ({"fold": 5}, "data.fold=5 must be one of 0..4"),
    ({"fold": -1}, "data.fold=-1 must be"),
    ({"task": "horizons"}, "regions, surfaces"),
  ],
)
def test_fields_that_make_no_split_are_refused(root, fields, words):
  assert words in message(root, **fields)


def test_a_missing_label_is_named(root):
  name = build(root).source("train").names[0]
  label = root / f"labels/{name}.regions.txt"
  label.unlink()
  text = message(root)
  assert f"{name}.jpg: has no label" in text
  assert str(label) in text


@pytest.mark.parametrize("value", [8, 255, 256, -2, -256, 2**31 - 1])
def test_values_beyond_the_classes_are_refused_before_they_wrap(root, value):
  values = REGIONS.copy()
  values[3, 4] = value
  path = write_label(root, build(root).source("train").names[0], values)
  text = message(root)
  assert text.startswith(f"{path}: label value {value} ")
  assert "0..7" in text


@pytest.mark.parametrize(
  ("content", "words"),
  [
    ("", "is empty"),
    ("1 2 3\n1 2\n", "columns changed from 3 to 2"),
    ("1 2\n3 sky\n", "b'sky'"),
    ("1 2\n3 4\n", "label is 2x2 but "),
  ],
)
def test_a_damaged_label_is_one_line(root, content, words):
  path = root / f"labels/{build(root).source('test').names[0]}.regions.txt"
  path.write_text(content)
  text = message(root, "test")
  assert text.startswith(f"{path}: ")
  assert words in text


@pytest.mark.parametrize("lost", ["images", "labels"])
def test_a_missing_folder_names_the_layout(root, lost):
  (root / lost).rename(root / "elsewhere")
  text = message(root)
  assert f"{lost}: no such folder" in text
  assert "data.root must be iccv09Data" in text
  (root / lost).mkdir()
  assert f"{lost}: holds no *." in message(root)


def test_other_splits_and_an_unset_root_are_refused(root, monkeypatch):
  assert "train, test" in message(root, "val")
  monkeypatch.delenv("STANFORD_BACKGROUND", raising=False)
  assert "environment variable STANFORD_BACKGROUND" in message("")


def test_the_published_images_are_counted_by_fold(root, caplog):
  dataset = build(root)
  assert (dataset.published("train"), dataset.published("test")) == (572, 143)
  uneven = [build(root, folds=4, fold=fold).published("test") for fold in range(4)]
  assert sum(uneven) == 715
  with caplog.at_level(logging.WARNING, logger="errseg"):
    dataset.source("test")
  assert [r.message for r in caplog.records] == ["stanford_background test: found 3 of 143 published images"]
  assert "found 8 of 572" in check_split(dataset, "train").warnings[0]


def test_the_command_checks_both_splits(root, tmp_path, capsys):
  config = tmp_path / "config.py"
  config.write_text(
    "from errseg_jax.config import default_config\n"
    "def get_config(arg=''):\n"
    "  config = default_config()\n"
    f"  config.data = {{'name': 'stanford_background', 'root': {str(root)!r}}}\n"
    "  config.splits.val, config.splits.choose_fraction = 'test', 0.4\n"
    "  return config\n"
  )
  assert main(["data", "check", f"--config={config}"]) == 0
  out = capsys.readouterr().out
  assert "stanford_background train: 8 images" in out
  assert "stanford_background test: 3 images" in out
