"""A network that is only there as the scores it left in files, end to end."""

import json
import shutil

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import errseg_jax
from errseg_jax import assemble
from errseg_jax.assemble import with_defaults
from errseg_jax.cli import main
from errseg_jax.data.images import read_image
from errseg_jax.data.scores import joined
from errseg_jax.errors import UserError
from errseg_jax.train.trainer import Trainer

COLOURS = np.array([(60, 60, 60), (170, 60, 50), (60, 160, 70)], np.float32)


def probabilities(image):
  """Of each class by its colour's distance, at half the size."""
  small = cv2.resize(image.astype(np.float32), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
  return np.asarray(jax.nn.softmax(-((small[..., None, :] - COLOURS) ** 2).sum(-1) / 2000))


@pytest.fixture(scope="module")
def saved(tiny_config, tmp_path_factory):
  """A folder with 8-bit probabilities of every image, by split."""
  folder = tmp_path_factory.mktemp("scores")
  config = tiny_config()
  for split in ("train", "choose", "val"):
    (folder / split).mkdir()
    source = assemble.dataset(config).source(split)
    for index, name in enumerate(source.names):
      p = probabilities(read_image(source.images[index]))
      np.savez_compressed(folder / split / f"{name}.npz", p=np.round(255 * p).astype(np.uint8))
  return folder


def config_of(tiny_config, saved, **changes):
  adapter = {"name": "saved", "folder": str(saved), **changes.pop("adapter", {})}
  return with_defaults(tiny_config(order=("detail", "error"), segmenter__adapter=adapter, **changes))


@pytest.fixture(scope="module")
def run(tiny_config, saved, tmp_path_factory):
  """(workdir, trainer)."""
  workdir = tmp_path_factory.mktemp("saved") / "run"
  trainer = Trainer(config_of(tiny_config, saved, error_branch__prior="detail"), workdir)
  trainer.run()
  return workdir, trainer


def test_the_base_is_what_was_saved(run, saved):
  workdir, trainer = run
  assert main(["evaluate", f"--workdir={workdir}"]) == 0
  found = json.loads((workdir / "results.json").read_text())
  network, source = errseg_jax.load(str(workdir)), trainer.dataset.source("val")
  table = np.zeros((3, 3), np.int64)
  for index, name in enumerate(source.names):
    p = np.load(saved / "val" / f"{name}.npz")["p"] / 255
    sample = source[index]
    z = np.log(np.maximum(p, 1 / 765))
    want = jax.image.resize(jnp.asarray(z), (*sample["label"].shape, 3), "linear")
    labels = network.predict(joined(sample)["image"]).semantic_labels
    sure = np.diff(np.sort(want, -1))[..., -1] > 0.2  # codes are a sixteenth apart
    np.testing.assert_array_equal(labels[sure], np.asarray(want).argmax(-1)[sure])
    assert sure.mean() > 0.9
    valid = sample["label"] != 255
    np.add.at(table, (sample["label"][valid], labels[valid]), 1)
  iou = np.diagonal(table) / (table.sum(0) + table.sum(1) - np.diagonal(table))
  assert found["semantic"]["mIoU"] == pytest.approx(100 * iou.mean(), abs=1e-6)


def test_predict_takes_scores_by_the_name_of_the_image(run, saved, tiny_config, tmp_path, capsys):
  workdir, trainer = run
  source = trainer.dataset.source("val")
  flag = f"--config.segmenter.adapter.folder={saved / 'val'}"
  out = tmp_path / "out"
  assert main(["predict", f"--workdir={workdir}", source.images[0], f"--output={out}", flag]) == 0
  want = errseg_jax.load(str(workdir)).predict(joined(source[0])["image"]).labels
  np.testing.assert_array_equal(np.asarray(Image.open(out / f"{source.names[0]}_corrected.png")), want)
  other = tmp_path / "other.png"
  shutil.copy(source.images[0], other)
  capsys.readouterr()
  assert main(["predict", f"--workdir={workdir}", str(other), f"--output={tmp_path / 'more'}", flag]) == 2
  assert "other.npy: no such file" in capsys.readouterr().err


def test_tiles_views_and_reports_see_them_too(run, tmp_path, capsys):
  workdir, _ = run
  flags = ["--config.views.scales=(0.5,1.0)", "--config.views.mirror=True", "--config.tiles.size=32"]
  assert main(["evaluate", f"--workdir={workdir}", *flags, "--config.tiles.overlap=0"]) == 0
  assert main(["evaluate", f"--workdir={workdir}", "--scores=tta"]) == 0
  assert main(["report", f"--workdir={workdir}"]) == 0
  assert main(["label-issues", f"--workdir={workdir}", "--split=val"]) == 0
  assert main(["data", "extract", f"--workdir={workdir}", f"--out={tmp_path}"]) == 2
  assert "are in files already" in capsys.readouterr().err


def test_shards_hold_them(run, tiny_config, saved, tmp_path):
  _, trainer = run
  config = config_of(tiny_config, saved, error_branch__prior="detail")
  from errseg_jax.prepare.convert import convert

  convert(config, "", "array_record", tmp_path / "shards", 2, 2)
  config.loader.shards = str(tmp_path / "shards")
  again = assemble.dataset(config).source("train")
  for index, name in enumerate(trainer.dataset.source("train").names):
    want, found = trainer.dataset.source("train")[index], again[index]
    assert found["name"] == name
    for key in ("image", "label", "scores"):
      np.testing.assert_array_equal(found[key], want[key])
  plain = tiny_config(loader__shards=str(tmp_path / "shards"))
  with pytest.raises(UserError, match=r"holds samples of data\.scores"):
    assemble.dataset(plain).source("train")
  with pytest.raises(UserError, match="holds no scores"):
    convert(config_of(tiny_config, saved), "", "tfds", tmp_path / "tfds", 2, 2)


def test_a_view_has_the_scores_of_its_pixels(tiny_config, tmp_path, saved):
  config = config_of(tiny_config, saved, transform__copy_paste=1.0, transform__cutout=0.3)
  source = assemble.dataset(config).source("train")
  view = assemble.transform(config, samples=source)(source[0], np.random.default_rng(0))
  assert view.keys() == {"image", "label"}
  assert view["image"].shape == (32, 32, 6)
  # What the network says of a pixel goes where the pixel goes: labels agree with it as often as before.
  agree = []
  for seed in range(40):
    rng = np.random.default_rng(seed)
    view = assemble.transform(config, samples=source)(source[seed % len(source)], rng)
    valid = view["label"] != 255
    agree.append((view["image"][..., 3:].argmax(-1) == view["label"])[valid].mean())
  whole = []
  for index in range(len(source)):
    sample = joined(source[index])
    valid = sample["label"] != 255
    whole.append((sample["image"][..., 3:].argmax(-1) == sample["label"])[valid].mean())
  assert np.mean(agree) > np.mean(whole) - 0.05


def test_missing_scores_are_named_before_anything_trains(tiny_config, saved, tmp_path, capsys):
  folder = tmp_path / "scores"
  shutil.copytree(saved, folder)
  config = config_of(tiny_config, folder)
  name = assemble.dataset(config).source("train").names[0]
  (folder / "train" / f"{name}.npz").rename(folder / "train" / "of_another.npz")
  with pytest.raises(UserError, match=rf"{name}\.npy: no such file"):
    Trainer(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()
  with pytest.raises(UserError, match="no such folder"):
    Trainer(config_of(tiny_config, tmp_path / "nowhere"), tmp_path / "run")
  with pytest.raises(UserError, match=r"adapter\.folder is empty"):
    Trainer(config_of(tiny_config, ""), tmp_path / "run")
