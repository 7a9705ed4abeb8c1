import logging
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from errseg_jax.data import datasets
from errseg_jax.data.datasets.base import voc_palette
from errseg_jax.errors import UserError

LABEL = np.resize(np.append(np.arange(21), 255).astype(np.uint8), (11, 12))
NAMES = {"train": ("2007_000032", "2007_000039"), "val": ("2007_000033",), "trainaug": ("2008_000002",)}


def write_label(path, label):
  """A palette PNG, as the archive has them; 255 is the border's cream."""
  path.parent.mkdir(parents=True, exist_ok=True)
  image = Image.fromarray(label, mode="P")
  colours = np.zeros((256, 3), np.uint8)
  colours[:255], colours[255] = voc_palette(255), (224, 224, 192)
  image.putpalette(colours.tobytes())
  image.save(path)


@pytest.fixture
def root(tmp_path, write_pair):
  lists = tmp_path / "ImageSets/Segmentation"
  lists.mkdir(parents=True)
  for split, names in NAMES.items():
    (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    for name in names:
      label = tmp_path / f"SegmentationClass{'Aug' * (split == 'trainaug')}/{name}.png"
      write_pair(tmp_path / f"JPEGImages/{name}.jpg", label, LABEL, size=LABEL.shape)
      if split != "trainaug":
        write_label(label, LABEL)
  return tmp_path


def message(root, split="train"):
  with pytest.raises(UserError) as caught:
    datasets.build("voc", root=str(root)).source(split)[0]
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_palette_labels_are_read_by_their_indices(root):
  assert Image.open(root / "SegmentationClass/2007_000032.png").mode == "P"
  source = pickle.loads(pickle.dumps(datasets.build("voc", root=str(root)).source("train")))
  assert source.names == NAMES["train"]
  np.testing.assert_array_equal(source[0]["label"], LABEL)
  assert source[0]["image"].shape == (*LABEL.shape, 3)


@pytest.fixture
def sbd(root, tmp_path):
  """SBD beside VOC without SegmentationClassAug; of its images one is in VOC's train and one in its val."""
  shutil.rmtree(root / "SegmentationClassAug")
  folder = tmp_path / "benchmark_RELEASE/dataset"
  (folder / "cls").mkdir(parents=True)
  lists = {"train": ("2007_000032", "2008_000002"), "val": ("2007_000033", "2008_000007")}
  for split, names in lists.items():
    (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    for name in names:
      values = {"Segmentation": np.roll(LABEL % 21, 1, 0), "CategoriesPresent": np.array([[1.0]])}
      savemat(folder / f"cls/{name}.mat", {"GTcls": values}, do_compression=True)
  image = root / "JPEGImages/2008_000002.jpg"
  shutil.copy(image, image.with_name("2008_000007.jpg"))
  return folder


def test_trainaug_of_sbd_is_what_is_not_in_val(root, sbd):
  source = pickle.loads(pickle.dumps(datasets.build("voc", root=str(root), sbd=str(sbd)).source("trainaug")))
  assert source.names == ("2007_000032", "2007_000039", "2008_000002", "2008_000007")
  np.testing.assert_array_equal(source[0]["label"], LABEL)  # VOC's own, with its border, where both have one
  np.testing.assert_array_equal(source[3]["label"], np.roll(LABEL % 21, 1, 0))
  (sbd / "cls/2008_000007.mat").unlink()
  (root / "JPEGImages/2008_000002.jpg").unlink()
  problems = datasets.build("voc", root=str(root), sbd=str(sbd)).scan("trainaug")[1]
  assert ["2008_000002 of trainaug lacks its image" in problems[0], "2008_000007" in problems[1]] == [
    True,
    True,
  ]
  with pytest.raises(UserError, match=r"data\.sbd"):
    datasets.build("voc", root=str(root), sbd=str(sbd / "nowhere")).scan("trainaug")


def test_trainaug_reads_the_joined_labels(root):
  source = datasets.build("voc", root=str(root)).source("trainaug")
  assert "SegmentationClassAug" in source.labels[0]
  np.testing.assert_array_equal(source[0]["label"], LABEL)


def test_a_list_may_hold_paths(root):
  path = root / "ImageSets/Segmentation/trainaug.txt"
  path.write_text("/JPEGImages/2008_000002.jpg /SegmentationClassAug/2008_000002.png\n\n")
  assert datasets.build("voc", root=str(root)).source("trainaug").names == NAMES["trainaug"]


def test_class_names_and_colours_are_the_published_ones():
  info = datasets.build("voc").info
  assert len(set(info.classes)) == len(info.palette) == 21
  assert (info.classes[0], info.classes[15], info.classes[20]) == ("background", "person", "tvmonitor")
  assert info.palette[15] == (192, 128, 128)


def test_a_missing_file_is_named_with_its_line(root):
  (root / "JPEGImages/2007_000039.jpg").unlink()
  text = message(root)
  assert "train.txt:2: " in text
  assert "JPEGImages/2007_000039.jpg does not exist" in text
  (root / "SegmentationClass/2007_000033.png").unlink()
  assert "SegmentationClass/2007_000033.png does not exist" in message(root, "val")


def test_instance_labels_are_recognised(root):
  label = LABEL.copy()
  label[0, 0] = 38
  write_label(root / "SegmentationClass/2007_000032.png", label)
  assert "label value 38 is no class of PASCAL VOC" in message(root)


@pytest.mark.parametrize(
  ("lost", "split", "words"),
  [
    ("JPEGImages", "train", "JPEGImages: no such folder"),
    ("SegmentationClassAug", "trainaug", "the labels of VOC and SBD together"),
    ("ImageSets/Segmentation/trainaug.txt", "trainaug", "SBD's folder as data.sbd"),
  ],
)
def test_a_missing_part_names_the_layout(root, lost, split, words):
  (root / lost).rename(root / "elsewhere")
  text = message(root, split)
  assert words in text
  assert "VOCdevkit/VOC2012" in text


def test_an_empty_list_and_an_unknown_split_are_said(root):
  (root / "ImageSets/Segmentation/val.txt").write_text("\n")
  assert "val.txt: is empty" in message(root, "val")
  assert "no split 'test' with labels" in message(root, "test")


def test_a_part_of_the_data_set_is_told_from_all_of_it(root, caplog):
  with caplog.at_level(logging.WARNING, "errseg"):
    datasets.build("voc", root=str(root)).source("val")
  assert "voc val: found 1 of 1449 published images" in caplog.text
