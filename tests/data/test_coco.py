import logging
import pickle

import numpy as np
import pytest
from PIL import Image

from errseg_jax.data import datasets
from errseg_jax.data.datasets.coco import _GAPS, THINGS, label_map
from errseg_jax.errors import UserError

# Stored: person, airplane, umbrella, chair, couch, toothbrush; banner (the first stuff), the last stuff, unlabelled.
LABEL = np.resize(np.array([0, 4, 27, 61, 62, 89, 91, 181, 255], np.uint8), (9, 9))
BY_NAME = {
  "things": ("person", "airplane", "umbrella", "chair", "couch", "toothbrush", "background", "background"),
  "voc": ("person", "aeroplane", "background", "chair", "sofa", "background", "background", "background"),
}


@pytest.fixture
def root(tmp_path, write_pair):
  for split, name in (("train2017", "000000000009"), ("val2017", "000000000139")):
    label = tmp_path / f"stuffthingmaps/{split}/{name}.png"
    write_pair(tmp_path / f"{split}/{name}.jpg", label, LABEL, size=LABEL.shape)
  return tmp_path


def message(root, split="train2017", **fields):
  with pytest.raises(UserError) as caught:
    datasets.build("coco", root=str(root), **fields).source(split)[0]
  assert "\n" not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize("classes", BY_NAME)
def test_pixel_maps_become_the_classes_that_were_asked_for(root, classes):
  dataset = datasets.build("coco", root=str(root), classes=classes)
  sample = pickle.loads(pickle.dumps(dataset.source("train2017")))[0]
  names = [dataset.info.classes[i] for i in sample["label"].ravel()[:8]]
  assert tuple(names) == BY_NAME[classes]
  assert sample["label"].ravel()[8] == 255
  assert dataset.source("val2017").names == ("000000000139",)


def test_the_80_things_are_where_their_ids_are():
  assert len(set(THINGS)) == 80
  table = dict(label_map(("background", *THINGS)))
  # Ids of the annotation files, which count from 1.
  for number, name in {
    1: "person",
    13: "stop sign",
    31: "handbag",
    62: "chair",
    72: "tv",
    90: "toothbrush",
  }.items():
    assert THINGS[table[number - 1] - 1] == name
  assert sorted(value for value in table.values() if value > 0) == list(range(1, 81))
  assert all(table[number - 1] == -1 for number in _GAPS)


def test_voc_has_each_of_its_classes_once():
  classes = datasets.build("coco", classes="voc").info.classes
  found = sorted(value for value in dict(label_map(classes)).values() if value > 0)
  assert found == list(range(1, 21))


@pytest.mark.parametrize("value", [11, 90, 182])
def test_values_that_no_map_holds_are_refused(root, value):
  label = LABEL.copy()
  label[0, 0] = value
  Image.fromarray(label).save(root / "stuffthingmaps/train2017/000000000009.png")
  assert f"label value {value} is no value of the pixel maps" in message(root)


def test_what_is_missing_is_said(root):
  assert "no split 'train'" in message(root, "train")
  assert "data.classes='stuff' is unknown" in message(root, classes="stuff")
  (root / "stuffthingmaps/val2017/000000000139.png").unlink()
  assert "stuffthingmaps/val2017: holds no *.png" in message(root, "val2017")
  (root / "train2017").rename(root / "elsewhere")
  assert "stuffthingmaps/train2017/*.png" in message(root)


def test_a_part_of_the_data_set_is_told_from_all_of_it(root, caplog):
  with caplog.at_level(logging.WARNING, "errseg"):
    datasets.build("coco", root=str(root)).source("val2017")
  assert "coco val2017: found 1 of 5000 published images" in caplog.text
