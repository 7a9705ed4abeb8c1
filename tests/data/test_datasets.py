import os
import pathlib
import pickle

import numpy as np
import pytest
from PIL import Image

from errseg_jax.data import datasets
from errseg_jax.data.datasets.base import voc_palette
from errseg_jax.errors import UserError


def test_folders_give_checked_samples(folders):
  dataset = datasets.build("folders", root=str(folders), class_names=("ground", "thing"))
  source = pickle.loads(pickle.dumps(dataset.source("train")))
  assert source.names == ("a", "b")
  sample = source[1]
  assert sample["name"] == "b"
  assert sample["image"].shape == (8, 10, 3)
  assert set(np.unique(sample["label"])) == {0, 1, 255}
  assert dataset.info.classes == ("ground", "thing")


def _message(folders, **kwargs):
  with pytest.raises(UserError) as caught:
    datasets.build("folders", **{"root": str(folders), "num_classes": 2, **kwargs}).source("train")[0]
  assert "\n" not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize(
  ("values", "classes", "cause"),
  [
    ([0, 5], 2, "class count is too small"),
    ([7, 26, 33], 19, "Cityscapes label ids"),
    ([1, 2], 2, "start at 1"),
    (range(0, 250, 5), 2, "colour mask"),
  ],
)
def test_a_bad_label_value_names_file_value_and_cause(folders, values, classes, cause):
  label = np.resize(np.array(values, np.uint8), (8, 10))
  Image.fromarray(label).save(folders / "labels/train/a.png")
  message = _message(folders, num_classes=classes)
  first = next(value for value in values if value >= classes)
  assert "a.png" in message
  assert f"value {first} " in message
  assert cause in message


def test_a_label_of_another_size_is_refused(folders):
  Image.new("L", (9, 8)).save(folders / "labels/train/a.png")
  message = _message(folders)
  assert "a.png: label is 9x8" in message
  assert "a.jpg is 10x8" in message


@pytest.mark.parametrize("lost", ["images/train/b.jpg", "labels/train/b.png"])
def test_a_file_without_its_counterpart_is_named(folders, lost):
  (folders / lost).unlink()
  kept = "b.png: has no image" if lost.endswith("jpg") else "b.jpg: has no label"
  assert kept in _message(folders)


def test_missing_and_empty_folders_are_named(folders, tmp_path_factory):
  assert "no such folder" in _message(folders / "elsewhere")
  assert "images/train: no such folder" in _message(tmp_path_factory.mktemp("empty"))
  for file in (folders / "images/train").iterdir():
    file.unlink()
  assert "images/train: holds no" in _message(folders)


def test_class_names_and_count_must_agree(folders):
  assert "make them agree" in _message(folders, class_names=("one",))
  assert "num_classes is missing" in _message(folders, num_classes=0)
  assert "at most 255" in _message(folders, num_classes=256)


def test_a_label_map_moves_values_and_refuses_the_unlisted(folders):
  mapped = datasets.build("folders", root=str(folders), num_classes=1, label_map={0: 255, 1: 0})
  assert set(np.unique(mapped.source("train")[0]["label"])) == {0, 255}
  assert "value 1 is not in label_map" in _message(folders, label_map={0: 1})
  assert "neither a class" in _message(folders, label_map={0: 2})


@pytest.mark.parametrize("separator", [" ", "\t", ", "])
def test_pairs_accept_the_usual_separators(tmp_path, write_pair, separator):
  write_pair(tmp_path / "x/one.png", tmp_path / "y/one.png")
  write_pair(tmp_path / "z/one.png", tmp_path / "y/two.png")
  lines = [f"x/one.png{separator}y/one.png", "", f"z/one.png{separator}y/two.png"]
  (tmp_path / "val.txt").write_text("\n".join(lines))
  source = datasets.build("pairs", root=str(tmp_path), num_classes=1).source("val")
  assert len(set(source.names)) == len(source) == 2
  assert source[1]["label"].shape == (8, 10)


def test_a_bad_line_of_a_list_is_named_with_its_number(tmp_path, write_pair):
  write_pair(tmp_path / "a.png", tmp_path / "la.png")
  (tmp_path / "val.txt").write_text("a.png la.png\na.png lb.png\nlonely\n")
  dataset = datasets.build("pairs", root=str(tmp_path), num_classes=1)
  with pytest.raises(UserError, match=r"val\.txt:2: .*lb\.png does not exist.*1 more"):
    dataset.source("val")
  with pytest.raises(UserError, match=r"train\.txt: no such list file"):
    dataset.source("train")


def test_names_take_as_many_folders_as_tell_them_apart(tmp_path, write_pair):
  rows = []
  for folder in ("u/a/img", "v/a/img", "w"):
    (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (10, 8)).save(tmp_path / folder / "x.png")
    rows.append(f"{folder}/x.png {folder}/x.png")
  (tmp_path / "train.txt").write_text("\n".join(rows))
  source, problems = datasets.build("pairs", root=str(tmp_path), num_classes=2).scan("train")
  assert (source.names, problems) == (("u_a_img_x", "v_a_img_x", "w_x"), ())


@pytest.mark.parametrize("prefix", ["", "/SegNet/CamVid/"])
def test_camvid_reads_both_kinds_of_list(tmp_path, write_pair, prefix):
  label = np.resize(np.arange(12, dtype=np.uint8), (8, 10))
  write_pair(tmp_path / "train/s_1.png", tmp_path / "trainannot/s_1.png", label)
  (tmp_path / "train.txt").write_text(f"{prefix}train/s_1.png {prefix}trainannot/s_1.png\n")
  dataset = datasets.build("camvid", root=str(tmp_path))
  loaded = dataset.source("train")[0]["label"]
  assert dataset.info.num_classes == 11
  np.testing.assert_array_equal(loaded, np.where(label == 11, 255, label))


def test_camvid_root_comes_from_the_environment(tmp_path, monkeypatch):
  monkeypatch.delenv("CAMVID", raising=False)
  with pytest.raises(UserError, match="environment variable CAMVID"):
    datasets.build("camvid").source("train")
  monkeypatch.setenv("CAMVID", str(tmp_path))
  with pytest.raises(UserError, match=r"train\.txt"):
    datasets.build("camvid").source("train")


def test_unknown_names_and_keys_list_the_known_ones():
  with pytest.raises(UserError, match=r"'camvit'.*camvid, "):
    datasets.build("camvit")
  with pytest.raises(UserError, match=r"data\.rot .*root"):
    datasets.build("camvid", rot="x")


def test_the_voc_palette_is_the_published_one():
  assert voc_palette(5) == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128))
  assert len(set(voc_palette(255))) == 255


@pytest.mark.skipif("ERRSEG_DATA" not in os.environ, reason="ERRSEG_DATA names no data folder")
def test_real_data_sets_are_read():
  root = pathlib.Path(os.environ["ERRSEG_DATA"])
  camvid = datasets.build("camvid", root=str(root / "camvid"))
  assert (len(camvid.source("train")), len(camvid.source("val"))) == (367, 101)
  assert camvid.source("val")[0]["image"].shape == (360, 480, 3)
  msrc = datasets.build("folders", root=str(root / "msrc21"), num_classes=21).source("val")
  assert msrc[0]["label"].shape == msrc[0]["image"].shape[:2]


def test_downscale_gives_every_sample_smaller(folders):
  whole = datasets.build("folders", root=str(folders), num_classes=2).source("train")[1]
  half = datasets.build("folders", root=str(folders), num_classes=2, downscale=2).source("train")[1]
  assert half["image"].shape == (4, 5, 3)
  means = whole["image"].reshape(4, 2, 5, 2, 3).mean((1, 3))
  np.testing.assert_allclose(half["image"], means, atol=0.51)
  corners = whole["label"].reshape(4, 2, 5, 2).transpose(0, 2, 1, 3).reshape(4, 5, 4)
  assert (corners == half["label"][..., None]).any(-1).all()
  assert "downscale=0 must be 1" in _message(folders, downscale=0)
