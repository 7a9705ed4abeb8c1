import json
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from errseg_jax import assemble
from errseg_jax.cli import main
from errseg_jax.config_flags import load
from errseg_jax.data import datasets
from errseg_jax.errors import UserError

FLAGS = ("--config.data.num_classes=3", "--config.splits.choose=")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """(files, data_dir): four pairs for training and two for validation, prepared by the command."""
  tmp_path = tmp_path_factory.mktemp("tfds")
  rng, root = np.random.default_rng(0), tmp_path / "files"
  for split, count in (("train", 4), ("val", 2)):
    for kind in ("images", "labels"):
      (root / kind / split).mkdir(parents=True)
    for number in range(count):
      size = (16 + number, 24)
      Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(root / f"images/{split}/{number}.jpg")
      label = rng.choice(np.array([0, 1, 2, 255], np.uint8), size)
      Image.fromarray(label).save(root / f"labels/{split}/{number}.png")
  given = (f"--config.data.root={root}", *FLAGS, "--to=tfds", f"--out={tmp_path / 'out'}")
  assert main(["data", "convert", "--config=configs/folders.py", *given]) == 0
  return root, tmp_path / "out"


def build(prepared, **fields):
  return datasets.build(
    "tfds", **{"root": str(prepared[1]), "dataset": "folders", "num_classes": 3, **fields}
  )


def test_a_prepared_set_gives_the_same_samples(prepared):
  want = assemble.dataset(load("configs/folders.py", (f"--config.data.root={prepared[0]}", *FLAGS)))
  flags = (f"--config.data.root={prepared[1]}", *FLAGS)
  got = assemble.dataset(load("configs/tfds.py:folders", flags))
  for split, count in (("train", 4), ("val", 2)):
    source = pickle.loads(pickle.dumps(got.source(split)))
    assert len(source) == count
    for index in range(count):
      for key in ("image", "label"):
        np.testing.assert_array_equal(source[index][key], want.source(split)[index][key])
    assert source[1]["name"] == source.names[1] == f"{split}_00000001"


def test_label_values_are_mapped_and_checked(prepared):
  mapped = build(prepared, num_classes=2, label_map={0: 0, 1: 1, 2: 255}).source("train")[0]["label"]
  assert {*np.unique(mapped)} == {0, 1, 255}
  with pytest.raises(UserError, match=r"train_00000000: label value 2 is outside 0\.\.1"):
    build(prepared, num_classes=2).source("train")[0]


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"dataset": "other"}, "holds no prepared data set"),
    ({"dataset": "../folders"}, "must be NAME"),
    ({"dataset": ""}, "data.dataset is empty"),
    ({"image_key": "picture"}, "has no feature 'picture'"),
    ({"dataset": "folders/1.0.0", "label_key": "name"}, "cannot be read|no map of class ids"),
  ],
)
def test_what_cannot_be_meant_is_told(prepared, fields, message):
  with pytest.raises(UserError, match=message):
    build(prepared, **fields).source("train")[0]


def test_a_split_that_is_not_there_is_told(prepared):
  with pytest.raises(UserError, match="no split 'test' but train, val"):
    build(prepared).source("test")


def test_tfrecord_names_the_command_that_converts_it(prepared, tmp_path):
  folder = tmp_path / "folders/2.0.0"
  folder.mkdir(parents=True)
  for name in ("dataset_info.json", "features.json"):
    (folder / name).write_text((prepared[1] / "folders/1.0.0" / name).read_text())
  info = json.loads((folder / "dataset_info.json").read_text())
  info["fileFormat"], info["version"] = "tfrecord", "2.0.0"
  for split in info["splits"]:
    split["filepathTemplate"] = split["filepathTemplate"].replace("array_record", "tfrecord")
  (folder / "dataset_info.json").write_text(json.dumps(info))
  with pytest.raises(UserError, match=r"tfds convert_format --dataset_version_dir=.*array_record"):
    build(prepared, root=str(tmp_path)).source("train")


def test_nothing_is_prepared_twice(prepared, capsys):
  given = (f"--config.data.root={prepared[0]}", *FLAGS, "--to=tfds", f"--out={prepared[1]}")
  assert main(["data", "convert", "--config=configs/folders.py", *given]) == 2
  assert "exists" in capsys.readouterr().err


def test_any_config_reads_a_prepared_set_by_its_name(prepared, caplog):
  """With the classes that it tells of; what its layout alone has is said to have no effect."""
  flags = (
    f"--config.data.root={prepared[1]}",
    "--config.data.name=tfds:folders",
    "--config.data.downscale=2",
  )
  for config in ("configs/camvid_squeezenet_error_detail.py", "configs/folders.py"):
    found = assemble.dataset(load(config, flags))
    assert found.info.num_classes == 3
    assert found.info.classes == ("class 0", "class 1", "class 2")
    assert found.source("val")[1]["image"].shape == (17, 24, 3)
  assert "data.downscale has no effect" in caplog.text


def test_a_config_file_may_name_it_too(prepared, tmp_path):
  (tmp_path / "mine.py").write_text(
    "from errseg_jax.config import default_config\n\n\ndef get_config(arg=None):\n  config = default_config()\n"
    f"  config.data = {{'name': 'tfds:folders', 'root': {str(prepared[1])!r}}}\n  return config\n"
  )
  config = load(str(tmp_path / "mine.py"), ())
  assert assemble.dataset(config).info.num_classes == 3
  assert assemble.dataset(assemble.with_defaults(config)).source("val")[0]["image"].shape == (16, 24, 3)


def quirky(root):
  """Files that not all decoders read alike: two orientations, CMYK, RGBA, a palette."""
  rng = np.random.default_rng(0)
  for kind in ("images", "labels"):
    (root / kind / "train").mkdir(parents=True)
  for number, (mode, suffix, orientation) in enumerate(
    [
      ("RGB", "jpg", 3),
      ("RGB", "jpg", 6),
      ("CMYK", "jpg", 1),
      ("RGBA", "png", 1),
      ("P", "png", 1),
      ("L", "png", 1),
    ]
  ):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).convert(mode)
    image.save(root / f"images/train/{number}.{suffix}", exif=exif)
    size = (32, 24) if orientation == 6 else (24, 32)
    Image.fromarray(rng.integers(0, 3, size, np.uint8)).save(root / f"labels/train/{number}.png")
  return root


def test_images_of_all_kinds_are_prepared_as_they_are_read(tmp_path):
  root = quirky(tmp_path / "files")
  given = (f"--config.data.root={root}", *FLAGS, "--to=tfds", f"--out={tmp_path / 'out'}", "--split=train")
  assert main(["data", "convert", "--config=configs/folders.py", *given]) == 0
  want = assemble.dataset(load("configs/folders.py", (f"--config.data.root={root}", *FLAGS))).source("train")
  got = datasets.build("tfds:folders", root=str(tmp_path / "out")).source("train")
  assert len(got) == 6
  for index in range(6):
    for key in ("image", "label"):
      np.testing.assert_array_equal(got[index][key], want[index][key], err_msg=want.names[index])


def cut(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
  "name", ["dataset_info.json", "features.json", "folders-train.array_record-00000-of-00001"]
)
@pytest.mark.parametrize(
  "damage", [cut, lambda path: path.write_text("[" * 9999), lambda path: path.unlink()]
)
def test_a_damaged_set_is_told(prepared, tmp_path, name, damage):
  shutil.copytree(prepared[1], tmp_path / "out")
  damage(tmp_path / "out/folders/1.0.0" / name)
  with pytest.raises(UserError, match=r"prepare the data set anew|holds no prepared data set"):
    build(prepared, root=str(tmp_path / "out")).source("train")[0]
