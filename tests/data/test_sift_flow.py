import logging
import pickle

import numpy as np
import pytest
from scipy.io import savemat

from errseg_jax.cli import main
from errseg_jax.data import datasets
from errseg_jax.data.checks import check_split
from errseg_jax.errors import UserError

FOLDER = "spatial_envelope_256x256_static_8outdoorcategories"
NAMES = ("coast_a1", "forest_b2", "highway_c3", "street_d4")
SEMANTIC = np.resize(np.arange(34, dtype=np.uint8), (12, 13))
GEOMETRIC = np.resize(np.array([-1, 0, 1, 2, 3], np.int16), (12, 13))


def write_label(root, name, values, kind="SemanticLabels", **variables):
  path = root / kind / FOLDER / f"{name}.mat"
  path.parent.mkdir(parents=True, exist_ok=True)
  names = np.array([["awning", "balcony"]], object)
  savemat(path, {"S": values, "names": names, **variables}, do_compression=True)
  return path


@pytest.fixture
def root(tmp_path, write_pair):
  """Four images of which two are the test split."""
  for name in NAMES:
    write_pair(tmp_path / "Images" / FOLDER / f"{name}.jpg", tmp_path / "unused.png", size=(12, 13))
    write_label(tmp_path, name, SEMANTIC)
    write_label(tmp_path, name, GEOMETRIC, "GeoLabels")
  (tmp_path / "TestSet1.txt").write_bytes(f"{FOLDER}\\street_d4.jpg\r\n{FOLDER}\\coast_a1.jpg\r\n".encode())
  return tmp_path


def build(root, **kwargs):
  return datasets.build("sift_flow", root=str(root), **kwargs)


def message(root, split="train", **kwargs):
  with pytest.raises(UserError) as caught:
    build(root, **kwargs).source(split)[0]
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_semantic_labels_lose_one_and_0_is_ignored(root):
  source = pickle.loads(pickle.dumps(build(root).source("train")))
  assert source.names == ("forest_b2", "highway_c3")
  expected = np.where(SEMANTIC == 0, 255, SEMANTIC.astype(int) - 1)
  np.testing.assert_array_equal(source[1]["label"], expected)
  assert source[1]["label"].dtype == np.uint8
  assert source[0]["image"].shape == (12, 13, 3)


def test_geometric_labels_are_the_task_s_own(root):
  dataset = build(root, task="geometric")
  expected = np.where(GEOMETRIC <= 0, 255, GEOMETRIC - 1)
  np.testing.assert_array_equal(dataset.source("test")[0]["label"], expected)
  assert dataset.info.classes == ("sky", "horizontal", "vertical")
  assert dataset.info.absent == ()
  assert "data.task='geo' is unknown" in message(root, task="geo")


def test_classes_are_those_published():
  info = datasets.build("sift_flow").info
  assert len(set(info.classes)) == len(set(info.palette)) == 33
  # 1, 9, 11, 16, 22 and 33 of the published list.
  named = [info.classes[i] for i in (0, 8, 10, 15, 21, 32)]
  assert named == ["awning", "cow", "desert", "moon", "road", "window"]
  assert info.absent == ("cow", "desert", "moon")


@pytest.mark.parametrize("separator", ["\\", "/"])
@pytest.mark.parametrize("suffix", [".jpg", ".mat", ""])
@pytest.mark.parametrize("folder", [FOLDER, "x", ""])
def test_the_test_list_is_read_in_all_its_forms(root, separator, suffix, folder):
  start = folder + separator if folder else ""
  lines = [f"{start}{name}{suffix}" for name in ("street_d4", "coast_a1")]
  (root / "TestSet1.txt").write_text("\n".join([*lines, "", " "]), newline="")
  assert build(root).source("test").names == ("coast_a1", "street_d4")
  assert build(root).source("train").names == ("forest_b2", "highway_c3")


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_test_image_that_is_not_there_stops_both_splits(root, split):
  with (root / "TestSet1.txt").open("a") as file:
    file.write("forest_b22.jpg\n")
  assert "TestSet1.txt:3: 'forest_b22.jpg' is not among the images" in message(root, split)


def test_a_list_that_parts_nothing_is_refused(root):
  path = root / "TestSet1.txt"
  path.write_text("\n".join(NAMES))
  assert "split 'train' is empty" in message(root)
  path.write_text(" \n")
  assert f"{path}: is empty" in message(root)
  path.write_bytes(b"\xff\xfe\0nonsense")
  assert f"{path}:1: " in message(root)
  path.unlink()
  assert f"{path}: no such list file" in message(root)


def test_the_two_images_without_annotation_are_left_out(root, write_pair):
  for name in ("highway_bost181", "street_urb506"):
    write_pair(root / "Images" / FOLDER / f"{name}.jpg", root / "unused.png", size=(12, 13))
  write_label(root, "street_urb506", np.zeros((12, 13), np.uint8))
  assert build(root).source("train").names == ("forest_b2", "highway_c3")


def test_a_missing_label_is_named(root):
  label = root / "SemanticLabels" / FOLDER / "forest_b2.mat"
  label.unlink()
  text = message(root)
  assert "forest_b2.jpg: has no label" in text
  assert str(label) in text
  assert build(root, task="geometric").source("train").names == ("forest_b2", "highway_c3")


@pytest.mark.parametrize("value", [34, 255, 256, 257, -1, -255, 2**31 - 1, -(2**31)])
def test_values_beyond_the_classes_are_refused_before_they_wrap(root, value):
  values = SEMANTIC.astype(np.int32)
  values[0, 0] = value
  path = write_label(root, "forest_b2", values)
  text = message(root)
  assert text.startswith(f"{path}: label value {value} ")
  assert "1..33" in text


@pytest.mark.parametrize("value", [4, -2, 255])
def test_geometric_values_are_checked_too(root, value):
  values = GEOMETRIC.copy()
  values[0, 0] = value
  write_label(root, "forest_b2", values, "GeoLabels")
  assert f"label value {value} is none of the 3 classes" in message(root, task="geometric")


def test_a_label_of_another_size_or_form_is_one_line(root):
  write_label(root, "forest_b2", SEMANTIC[:, :-1])
  assert "forest_b2.mat: label is 12x12 but " in message(root)
  path = root / "SemanticLabels" / FOLDER / "forest_b2.mat"
  savemat(path, {"T": SEMANTIC})
  assert "no matrix S but 'T'" in message(root)
  path.write_bytes(path.read_bytes()[:150])
  assert "damaged MAT file" in message(root)


@pytest.mark.parametrize("lost", ["Images", "SemanticLabels"])
def test_a_missing_folder_names_the_layout(root, lost):
  (root / lost).rename(root / "elsewhere")
  text = message(root)
  assert f"{lost}/{FOLDER}: no such folder" in text
  assert "data.root must be SiftFlowDataset" in text


def test_other_splits_and_an_unset_root_are_refused(root, monkeypatch):
  assert "train, test" in message(root, "val")
  monkeypatch.delenv("SIFT_FLOW", raising=False)
  assert "environment variable SIFT_FLOW" in message("")
  monkeypatch.setenv("SIFT_FLOW", str(root))
  assert len(datasets.build("sift_flow").source("test")) == 2


def test_the_check_knows_the_published_counts_and_the_absent_classes(root, caplog):
  values = SEMANTIC.copy()
  values[np.isin(values, (9, 11, 16))] = 0
  for name in NAMES:
    write_label(root, name, values)
  report = check_split(build(root), "test")
  assert report.warnings == ("sift_flow test: found 2 of 200 published images",)
  assert report.images == 2
  assert report.absent == (8, 10, 15)
  with caplog.at_level(logging.WARNING, logger="errseg"):
    build(root).source("train")
  assert [r.message for r in caplog.records] == ["sift_flow train: found 2 of 2486 published images"]


def test_a_class_that_test_does_hold_otherwise_is_still_missed(root):
  for name in NAMES:
    write_label(root, name, np.where(SEMANTIC == 1, 0, SEMANTIC).astype(np.uint8))
  assert any("no pixel of awning;" in line for line in check_split(build(root), "test").warnings)


def test_the_command_checks_both_splits(root, tmp_path, capsys):
  config = tmp_path / "config.py"
  config.write_text(
    "from errseg_jax.config import default_config\n"
    "def get_config(arg=''):\n"
    "  config = default_config()\n"
    f"  config.data = {{'name': 'sift_flow', 'root': {str(root)!r}}}\n"
    "  config.splits.val = 'test'\n"
    "  return config\n"
  )
  assert main(["data", "check", f"--config={config}"]) == 2
  printed = capsys.readouterr()
  assert "sift_flow train: 2 images" in printed.out
  assert "sift_flow test: 2 images" in printed.out
  (line,) = printed.err.splitlines()
  assert "2 training images are too few to hold some out" in line
  write_label(root, "street_d4", SEMANTIC + 1)
  assert main(["data", "check", f"--config={config}"]) == 2
  assert "street_d4.mat: label value 34" in capsys.readouterr().err
