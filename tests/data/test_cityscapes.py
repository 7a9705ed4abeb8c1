import logging
import pickle

import numpy as np
import pytest
from PIL import Image

from errseg_jax.data import datasets
from errseg_jax.data.checks import check_split
from errseg_jax.errors import UserError

# Label id of each train id, as the official labels.py lists them.
IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
ALL_IDS = np.resize(np.arange(34, dtype=np.uint8), (8, 10))
EXPECTED = np.array([IDS.index(i) if i in IDS else 255 for i in range(34)])
NAMES = ("aachen_000000_000019", "aachen_000001_000019", "zurich_000000_000019")


@pytest.fixture
def root(tmp_path, write_pair):
  """Three fine samples of label ids, with train ids and coarse labels beside them."""
  train_ids = EXPECTED[ALL_IDS].astype(np.uint8)
  for name in NAMES:
    city = name.split("_")[0]
    image = tmp_path / f"leftImg8bit/train/{city}/{name}_leftImg8bit.png"
    write_pair(image, tmp_path / f"gtFine/train/{city}/{name}_gtFine_labelIds.png", ALL_IDS)
    write_pair(image, tmp_path / f"gtFine/train/{city}/{name}_gtFine_labelTrainIds.png", train_ids)
    write_pair(image, tmp_path / f"gtCoarse/train/{city}/{name}_gtCoarse_labelIds.png", ALL_IDS // 33 * 7)
    # What the official archives hold besides.
    write_pair(image, tmp_path / f"gtFine/train/{city}/{name}_gtFine_instanceIds.png", ALL_IDS)
  return tmp_path


def message(root, split="train", **kwargs):
  with pytest.raises(UserError) as caught:
    datasets.build("cityscapes", root=str(root), **kwargs).source(split)[0]
  assert "\n" not in str(caught.value)
  return str(caught.value)


def label_of(root, kind, name="aachen_000000_000019"):
  return root / f"gtFine/train/{name.split('_')[0]}/{name}_gtFine_{kind}.png"


@pytest.mark.parametrize("labels", ["labelIds", "labelTrainIds"])
def test_both_kinds_of_label_give_the_train_ids(root, labels):
  dataset = datasets.build("cityscapes", root=str(root), labels=labels)
  source = pickle.loads(pickle.dumps(dataset.source("train")))
  assert source.names == NAMES
  for sample in (source[0], source[2]):
    assert sample["image"].shape == (8, 10, 3)
    np.testing.assert_array_equal(sample["label"], EXPECTED[ALL_IDS])


def test_class_names_and_colours_follow_the_train_ids():
  info = datasets.build("cityscapes").info
  assert info.num_classes == len(info.palette) == 19
  assert (info.classes[0], info.classes[10], info.classes[18]) == ("road", "sky", "bicycle")
  assert (info.palette[0], info.palette[13]) == ((128, 64, 128), (0, 0, 142))


def test_coarse_labels_are_read_on_request(root, write_pair):
  coarse = datasets.build("cityscapes", root=str(root), fine=False)
  assert set(np.unique(coarse.source("train")[0]["label"])) == {0, 255}
  name = "train_extra/ulm/ulm_000000_000000"
  write_pair(
    root / f"leftImg8bit/{name}_leftImg8bit.png", root / f"gtCoarse/{name}_gtCoarse_labelIds.png", ALL_IDS
  )
  assert coarse.source("train_extra").names == ("ulm_000000_000000",)
  assert "set data.fine=False" in message(root, "train_extra")


def test_other_files_and_those_of_a_mac_are_passed_over(root):
  label = label_of(root, "labelIds")
  (label.parent / f"._{label.name}").write_bytes(b"mac")
  image = root / "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"
  (image.parent / f"._{image.name}").write_bytes(b"mac")
  (image.parent / "readme.txt").write_text("")
  assert datasets.build("cityscapes", root=str(root)).source("train").names == NAMES


def test_a_missing_label_is_named(root):
  label = label_of(root, "labelIds")
  label.unlink()
  text = message(root)
  assert "aachen_000000_000019_leftImg8bit.png: has no label" in text
  assert str(label) in text
  # The rest of the split is still checked.
  source, problems = datasets.build("cityscapes", root=str(root)).scan("train")
  assert (source.names, len(problems)) == (NAMES[1:], 1)


def test_no_label_at_all_says_how_to_make_them(root):
  for name in NAMES:
    label_of(root, "labelTrainIds", name).unlink()
  text = message(root, labels="labelTrainIds")
  assert "csCreateTrainIdLabelImgs" in text
  assert "set data.labels=labelIds" in text


def test_label_ids_in_place_of_train_ids_are_recognised(root):
  path = label_of(root, "labelTrainIds")
  Image.fromarray(ALL_IDS).save(path)
  text = message(root, labels="labelTrainIds")
  assert f"{path}: label value 19 " in text
  assert "looks like a label id: set data.labels=labelIds" in text


def test_train_ids_in_place_of_label_ids_are_recognised(root):
  Image.fromarray(EXPECTED[ALL_IDS].astype(np.uint8)).save(label_of(root, "labelIds"))
  text = message(root)
  assert "label value 255 " in text
  assert "set data.labels=labelTrainIds" in text


@pytest.mark.parametrize(
  ("split", "words"),
  [
    ("test", ("not public", "errseg predict")),
    ("training", ("no split 'training'", "train, val, train_extra")),
    ("val", ("leftImg8bit/val: no such folder", "leftImg8bit/val/CITY/*_leftImg8bit.png")),
  ],
)
def test_a_wrong_split_says_what_there_is(root, split, words):
  text = message(root, split)
  for word in words:
    assert word in text


def test_a_wrong_folder_or_option_names_the_expected(root, tmp_path_factory, monkeypatch):
  assert "gtCoarse/val/CITY/*_gtCoarse_labelIds.png" in message(_val_images(root), "val", fine=False)
  empty = tmp_path_factory.mktemp("empty")
  assert "data.root must hold leftImg8bit/train/CITY" in message(empty)
  (empty / "leftImg8bit/train/aachen").mkdir(parents=True)
  assert "holds no */*_leftImg8bit.png" in message(empty)
  assert "labelIds, labelTrainIds" in message(root, labels="color")
  monkeypatch.delenv("CITYSCAPES_DATASET", raising=False)
  assert "environment variable CITYSCAPES_DATASET" in message("")


def _val_images(root):
  (root / "leftImg8bit/train").rename(root / "leftImg8bit/val")
  return root


def test_a_count_other_than_the_published_one_is_a_warning(root, caplog):
  dataset = datasets.build("cityscapes", root=str(root))
  with caplog.at_level(logging.WARNING, logger="errseg"):
    assert len(dataset.source("train")) == 3
  assert [r.message for r in caplog.records] == ["cityscapes train: found 3 of 2975 published images"]
  assert "found 3 of 2975" in check_split(dataset, "train").warnings[0]
  assert dataset.incomplete("train", 2975) == ""
