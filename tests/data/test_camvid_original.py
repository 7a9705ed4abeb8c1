import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from errseg_jax.data import datasets
from errseg_jax.data.datasets.camvid import INFO
from errseg_jax.data.datasets.camvid_original import ALL, COLOURS, NAMES, split_of
from errseg_jax.errors import UserError

FRAMES = (
  "0001TP_006690",
  "0001TP_008520",
  "0001TP_008550",
  "0006R0_f00930",
  "0016E5_07959",
  "0016E5_07960",
  "Seq05VD_f00000",
)


@pytest.fixture
def root(tmp_path):
  rng = np.random.default_rng(0)
  for folder in ("701_StillsRaw_full", "LabeledApproved_full"):
    (tmp_path / folder).mkdir()
  colours = np.array([*COLOURS, (0, 0, 0)], np.uint8)
  for name in FRAMES:
    Image.fromarray(rng.integers(0, 256, (36, 48, 3), np.uint8)).save(
      tmp_path / f"701_StillsRaw_full/{name}.png"
    )
    # Every class in a column of its own, void in the rest.
    index = np.minimum(np.arange(48), 31)[None].repeat(36, 0)
    Image.fromarray(colours[index]).save(tmp_path / f"LabeledApproved_full/{name}_L.png")
  return tmp_path


def build(root, **fields):
  return datasets.build("camvid_original", root=str(root), **fields)


def test_all_classes_are_those_of_the_colours_and_void_is_ignored(root):
  sample = build(root, classes="all").source("train")[0]
  np.testing.assert_array_equal(sample["label"][0, :31], np.arange(31))
  assert (sample["label"][:, 31:] == 255).all()
  assert ALL.num_classes == 31


def test_eleven_classes_are_those_of_the_segnet_form(root):
  label = build(root).source("train")[0]["label"]
  named = {name: INFO.classes[label[0, k]] for k, name in enumerate(NAMES)}
  assert named["LaneMkgsDriv"] == named["Road"] == "road"
  assert named["SUVPickupTruck"] == named["Truck_Bus"] == "car"
  assert named["Wall"] == named["Archway"] == "building"
  assert named["TrafficLight"] == named["SignSymbol"] == "sign"
  assert named["MotorcycleScooter"] == "bicyclist"
  assert {*named.values()} == {*INFO.classes}
  assert build(root).info.palette == INFO.palette


def test_frames_are_split_by_name(root):
  names = {split: build(root).scan(split)[0].names for split in ("train", "val", "test")}
  assert names["val"] == ("0016E5_07959",)
  assert names["test"] == ("0001TP_008550", "Seq05VD_f00000")
  assert names["train"] == ("0001TP_006690", "0001TP_008520", "0006R0_f00930", "0016E5_07960")
  assert "found 1 of 101" in build(root).incomplete("val", 1)
  assert split_of("IMG_1") == split_of("cover") == ""


def test_the_split_is_that_of_the_lists():
  folder = pathlib.Path(os.environ.get("ERRSEG_DATA", "none")) / "camvid"
  if not folder.is_dir():
    pytest.skip("ERRSEG_DATA names no folder with camvid")
  for split in ("train", "val"):
    lines = (folder / f"{split}.txt").read_text().splitlines()
    assert {split_of(pathlib.PurePosixPath(line.split()[0]).stem) for line in lines} == {split}


def test_a_colour_of_no_class_is_told(root):
  path = root / "LabeledApproved_full/0016E5_07959_L.png"
  Image.new("RGB", (48, 36), (64, 192, 1)).save(path)
  with pytest.raises(UserError, match=r"colour \(64, 192, 1\)"):
    build(root).source("val")[0]


def test_what_is_missing_is_told(root, tmp_path):
  (root / "LabeledApproved_full/0006R0_f00930_L.png").unlink()
  assert "0006R0_f00930_L.png" in build(root).scan("train")[1][0]
  with pytest.raises(UserError, match="no split 'all'"):
    build(root).scan("all")
  with pytest.raises(UserError, match=r"data\.classes='ten'"):
    build(root, classes="ten")
  with pytest.raises(UserError, match="701_StillsRaw_full"):
    build(tmp_path / "LabeledApproved_full").scan("train")
