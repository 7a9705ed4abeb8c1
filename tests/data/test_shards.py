import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from errseg_jax import assemble
from errseg_jax.cli import main
from errseg_jax.config_flags import load
from errseg_jax.data import datasets, shard_writer, shards
from errseg_jax.data.pipeline import train_batches
from errseg_jax.errors import UserError

FLAGS = ("--config.data.num_classes=3", "--config.splits.choose=")


@pytest.fixture
def root(tmp_path):
  """13 pairs, one image rotated by EXIF, one in grey, labels 0, 1, 2 and 255."""
  rng, folder = np.random.default_rng(0), tmp_path / "files"
  for split, count in (("train", 13), ("val", 2)):
    for kind in ("images", "labels"):
      (folder / kind / split).mkdir(parents=True)
    for number in range(count):
      image = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
      exif = Image.Exif()
      if number == 3:
        image, exif[0x0112] = image.rotate(90, expand=True), 6
      if number == 5:
        image = image.convert("L")
      image.save(folder / f"images/{split}/{number:02}.jpg", exif=exif)
      label = rng.choice(np.array([0, 1, 2, 255], np.uint8), (24, 32))
      Image.fromarray(label).save(folder / f"labels/{split}/{number:02}.png")
  return folder


def convert(root, out, *flags):
  given = (f"--config.data.root={root}", *FLAGS, f"--out={out}", "--shards=4", "--workers=2")
  return main(["data", "convert", "--config=configs/folders.py", *given, *flags])


def dataset(root, out=""):
  return assemble.dataset(
    load("configs/folders.py", (f"--config.data.root={root}", *FLAGS, f"--config.loader.shards={out}"))
  )


def test_samples_come_back_bit_for_bit_in_the_same_order(root, tmp_path, capsys):
  out = tmp_path / "shards"
  assert convert(root, out) == 0
  assert capsys.readouterr().out.split() == [str(out / "train.json"), str(out / "val.json")]
  assert sorted(p.name for p in out.iterdir()) == sorted(
    [f"{s}-{k:05}-of-{n:05}.array_record" for s, n in (("train", 4), ("val", 2)) for k in range(n)]
    + ["train.json", "val.json"]
  )
  for split in ("train", "val"):
    want, got = dataset(root).source(split), pickle.loads(pickle.dumps(dataset(root, out).source(split)))
    assert got.names == want.names
    for index in range(len(want)):
      for key in ("image", "label"):
        np.testing.assert_array_equal(got[index][key], want[index][key])
      assert got[index]["name"] == want[index]["name"]


def test_training_batches_are_the_same(root, tmp_path):
  out = tmp_path / "shards"
  assert convert(root, out) == 0
  options = {"batch_size": 4, "seed": 3, "start": 2, "stop": 6, "threads": 2}
  transform = assemble.transform(load("configs/folders.py", (*FLAGS, "--config.transform.crop_size=(16,16)")))
  sources = (dataset(root).source("train"), dataset(root, out).source("train"))
  for want, got in zip(*(list(train_batches([s], [transform], **options)) for s in sources), strict=True):
    for key in want:
      np.testing.assert_array_equal(got[key], want[key])


KILLED = """
import sys
from errseg_jax.cli import main
from errseg_jax.data import shard_writer

write, left = shard_writer.record_of, int(sys.argv.pop(1))

def record(source, index):
  global left
  left -= 1
  if left < 0:
    raise KeyboardInterrupt
  return write(source, index)

shard_writer.record_of = record
sys.exit(main(sys.argv[1:]))
"""


def convert_killed(root, out, records):
  """In a process of its own, killed after so many records."""
  given = (f"--config.data.root={root}", *FLAGS, f"--out={out}", "--shards=4", "--workers=1", "--split=train")
  words = [
    sys.executable,
    "-c",
    KILLED,
    str(records),
    "data",
    "convert",
    "--config=configs/folders.py",
    *given,
  ]
  assert subprocess.run(words, check=False, capture_output=True).returncode == 130


def records_written(monkeypatch):
  calls, write = [], shard_writer.record_of
  monkeypatch.setattr(
    shard_writer, "record_of", lambda source, index: calls.append(index) or write(source, index)
  )
  return calls


def test_a_killed_call_goes_on_with_what_it_lacks(root, tmp_path, monkeypatch):
  out = tmp_path / "shards"
  convert_killed(root, out, 7)
  assert not (out / "train.json").exists()
  assert len(list(out.glob("train*.array_record"))) == 2
  with pytest.raises(UserError, match="no such file"):
    dataset(root, out).source("train")
  calls = records_written(monkeypatch)
  assert convert(root, out, "--split=train") == 0
  assert sorted(calls) == list(range(6, 13))
  again = tmp_path / "again"
  assert convert(root, again, "--split=train") == 0
  assert (again / "train.json").read_text() == (out / "train.json").read_text()
  assert not list(out.glob(".*"))
  calls.clear()
  assert convert(root, out, "--split=train") == 0
  assert not calls


def test_files_that_changed_meanwhile_are_read_anew(root, tmp_path, monkeypatch):
  out, calls = tmp_path / "shards", records_written(monkeypatch)
  convert_killed(root, out, 7)
  Image.fromarray(np.full((24, 32), 2, np.uint8)).save(root / "labels/train/01.png")
  assert convert(root, out, "--split=train") == 0
  assert sorted(calls) == [0, 1, 2, *range(6, 13)]
  assert set(np.unique(dataset(root, out).source("train")[1]["label"])) == {2}
  Image.fromarray(np.full((24, 32), 1, np.uint8)).save(root / "labels/train/12.png")
  calls.clear()
  assert convert(root, out, "--split=train") == 0  # of a finished split too
  assert calls == [9, 10, 11, 12]
  assert set(np.unique(dataset(root, out).source("train")[12]["label"])) == {1}


def test_a_damaged_shard_is_written_anew(root, tmp_path, monkeypatch):
  out = tmp_path / "shards"
  assert convert(root, out, "--split=train") == 0
  damage(out / "train-00002-of-00004.array_record", 70_000, 1)
  calls = records_written(monkeypatch)
  assert convert(root, out, "--split=train") == 0
  assert calls == [6, 7, 8]


def test_what_a_killed_call_left_in_another_number_goes(root, tmp_path):
  out = tmp_path / "shards"
  convert_killed(root, out, 7)
  assert convert(root, out, "--split=train", "--shards=3") == 0
  assert {p.name for p in out.iterdir()} == {
    "train.json",
    *(f"train-0000{k}-of-00003.array_record" for k in range(3)),
  }


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--config.data.label_map={0:0,1:1,2:255}", "label_map=\\[\\] \\(here"),
    ("--config.data.downscale=2", r"data\.downscale=1 \(here 2\)"),
  ],
)
def test_shards_of_other_settings_are_refused(root, tmp_path, flag, message):
  out = tmp_path / "shards"
  assert convert(root, out, "--split=train") == 0
  found = load(
    "configs/folders.py", (f"--config.data.root={root}", *FLAGS, f"--config.loader.shards={out}", flag)
  )
  with pytest.raises(UserError, match=message):
    assemble.dataset(found).source("train")


def test_another_data_set_is_not_written_over(root, tmp_path, capsys):
  out = tmp_path / "shards"
  assert convert(root, out, "--split=train") == 0
  before = {path: path.read_bytes() for path in out.iterdir()}
  (root / "images/train/12.jpg").rename(root / "images/train/13.jpg")
  (root / "labels/train/12.png").rename(root / "labels/train/13.png")
  assert convert(root, out, "--split=train") == 2
  assert "is of other files; name another --out" in capsys.readouterr().err
  assert convert(root, out, "--split=train", "--config.data.downscale=2") == 2
  assert "is of data.downscale=1 (here 2)" in capsys.readouterr().err
  assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_name_that_is_no_utf8_is_one_line(root, tmp_path, capsys):
  for kind, suffix in (("images", "jpg"), ("labels", "png")):
    folder = os.fsencode(root / kind / "train")
    os.rename(folder + f"/03.{suffix}".encode(), folder + b"/\xff\xfe." + suffix.encode())
  assert convert(root, tmp_path / "shards", "--split=train") == 2
  assert "the file's name is no UTF-8" in capsys.readouterr().err


def test_an_out_that_is_a_file_is_one_line(root, tmp_path, capsys):
  (tmp_path / "shards").write_text("mine")
  assert convert(root, tmp_path / "shards") == 2
  assert "shards: file exists" in capsys.readouterr().err
  assert (tmp_path / "shards").read_text() == "mine"


def test_a_bad_sample_ends_it_with_its_name(root, tmp_path, capsys):
  Image.new("L", (32, 24), 7).save(root / "labels/train/08.png")
  assert convert(root, tmp_path / "shards") == 2
  assert "08.png: label value 7" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (("--to=tfrecord",), "--to"),
    (("--shards=0",), "--shards=0 must be 1"),
    (("--shards=many",), "whole number"),
    (("--workers=0",), "--workers=0"),
  ],
)
def test_bad_flags_are_one_line(root, tmp_path, capsys, flags, message):
  given = [f"--config.data.root={root}", *FLAGS, f"--out={tmp_path / 'x'}", *flags]
  assert main(["data", "convert", "--config=configs/folders.py", *given]) == 2
  assert message in capsys.readouterr().err


def test_another_number_of_shards_overwrites_nothing(root, tmp_path, capsys):
  out = tmp_path / "shards"
  assert convert(root, out, "--split=train") == 0
  before = (out / "train.json").read_bytes()
  assert (
    main(
      ["data", "convert", "--config=configs/folders.py", f"--config.data.root={root}", *FLAGS, f"--out={out}"]
    )
    == 2
  )
  assert "is of --shards=4" in capsys.readouterr().err
  assert (out / "train.json").read_bytes() == before


def damage(path, at, value=None):
  content = bytearray(path.read_bytes())
  if value is None:
    del content[at:]
  else:
    content[at] ^= value
  path.write_bytes(bytes(content))


def test_a_shard_that_is_cut_short_is_said(root, tmp_path):
  out = tmp_path / "shards"
  convert(root, out, "--split=train")
  damage(out / "train-00002-of-00004.array_record", -100)
  with pytest.raises(UserError, match=r"00002-of-00004\.array_record: is missing or cut short"):
    dataset(root, out).source("train")


def test_flipped_bits_never_give_another_sample(root, tmp_path):
  """Each flip anywhere in a shard is an error that names the folder, or changes nothing that is read."""
  out, copy = tmp_path / "shards", tmp_path / "copy"
  convert(root, out, "--split=train")
  want = [dataset(root).source("train")[index] for index in range(13)]
  name, rng = "train-00001-of-00004.array_record", np.random.default_rng(0)
  told = 0
  for at in rng.choice(
    np.flatnonzero(np.fromfile(out / name, np.uint8)), 40
  ):  # most of a small shard is padding
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(out, copy)
    damage(copy / name, int(at), int(rng.integers(1, 256)))
    try:
      source = dataset(root, copy).source("train")
      found = [source[index] for index in range(13)]
    except UserError as error:
      told += str(copy) in str(error)
    else:
      assert all(np.array_equal(f["image"], w["image"]) for f, w in zip(found, want, strict=True))
  assert told > 30


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda found: found.update(schema=1), "schema 1"),
    (lambda found: found["shards"][1].pop("bytes"), "damaged"),
    (lambda found: found["shards"][1].update(bytes="many"), "do not agree"),
    (lambda found: found.update(data=7), "damaged"),
    (lambda found: found["names"].pop(), "do not agree"),
    (lambda found: found["shards"][0].update(file="../train.array_record"), "do not agree"),
    (lambda found: found.update(classes=["a", "b", "c"]), "other classes"),
    (lambda found: found.pop("shards"), "damaged"),
  ],
)
def test_an_index_that_lies_is_refused(root, tmp_path, change, message):
  out = tmp_path / "shards"
  convert(root, out, "--split=train")
  found = json.loads((out / "train.json").read_text())
  change(found)
  (out / "train.json").write_text(json.dumps(found))
  with pytest.raises(UserError, match=message):
    dataset(root, out).source("train")


def test_what_is_no_file_is_kept_without_loss(tmp_path):
  scenes = datasets.build("scenes", num_train=3, height=32, width=48)
  shard_writer.write_split(scenes, "train", scenes.source("train"), tmp_path, 2, 1)
  got, want = shards.Sharded(scenes, tmp_path).source("train"), scenes.source("train")
  for index in range(3):
    np.testing.assert_array_equal(got[index]["image"], want[index]["image"])
    np.testing.assert_array_equal(got[index]["label"], want[index]["label"])


def test_a_nested_index_is_refused(root, tmp_path):
  out = tmp_path / "shards"
  convert(root, out, "--split=train")
  (out / "train.json").write_text("[" * 100_000)
  with pytest.raises(UserError, match="damaged"):
    dataset(root, out).source("train")


def test_folds_do_not_share_shards(tmp_path):
  """Shards of one fold would be the test images of every fold."""
  scenes = datasets.build("scenes", num_train=3, height=32, width=48)
  shard_writer.write_split(scenes, "train", scenes.source("train"), tmp_path, 2, 1)
  other = datasets.build("scenes", num_train=3, height=32, width=48, seed=1)
  with pytest.raises(UserError, match=r"data\.seed=0 \(here 1\)"):
    shards.Sharded(other, tmp_path).source("train")
