"""A converted network is the frozen network of a run: branches, evaluate and predict as with one trained here."""

import csv
import json

import jax
import numpy as np
import pytest
from PIL import Image

import errseg_jax as errseg
from errseg_jax import assemble, cli, commands
from errseg_jax.cli import main
from errseg_jax.config import cascade
from errseg_jax.models.backbones import xception
from errseg_jax.models.heads import deeplabv3plus_rules, dpc_rules, pspnet_rules
from errseg_jax.models.resize import resize
from errseg_jax.train.workdir import load_config

CONFIG = """
from errseg_jax.train.workdir import load_config


def get_config(arg=None):
  return load_config({folder!r})
"""
SMALL = {"name": "resnet", "depth": 10, "width": 8, "first_dilation": "stage"}
# One network each of three heads, as published but for their channels.
NETWORKS = {
  "smp_deeplabv3plus": (
    SMALL,
    {"name": "deeplabv3plus", **deeplabv3plus_rules.FIELDS["smp"], "features": 8, "low_features": 6},
  ),
  "semseg_pspnet": (
    {**SMALL, "stem": "semseg", "output_stride": 8},
    {"name": "pspnet", **pspnet_rules.FIELDS["semseg"], "features": 8, "auxiliary_features": 4},
  ),
  "tf_dpc_xception": (
    {"name": "xception", "depth": 41, "multiplier": 0.125},
    {"name": "dpc", **dpc_rules.FIELDS["tf"], "features": 8, "low_features": 6},
  ),
}


@pytest.fixture(autouse=True)
def _keep_settings(monkeypatch):
  """Commands set up logging, the cache and the platform of a whole process; this one has them."""
  monkeypatch.setattr(commands, "prepare", lambda config, distributed="off": None)


@pytest.fixture
def config_file(tmp_path, tiny_config):
  """A config of another network, which that of `--config.segmenter.init` replaces."""
  config = tiny_config(segmenter__backbone__width=4)
  for stage in ("error", "detail"):
    config.stages[stage].steps = 2
  (tmp_path / "config.json").write_text(config.to_json())
  (tmp_path / "tiny.py").write_text(CONFIG.format(folder=str(tmp_path)))
  return tmp_path / "tiny.py"


def semantic_labels(config, segmenter_variables, image):
  """What the segmenter alone says of an image whose size needs no padding."""
  segmenter = assemble.segmenter(config, config.data.num_classes)
  features = segmenter.apply(segmenter_variables, image[None])
  return np.asarray(resize(features.logits, image.shape[:2], features.align_corners)[0].argmax(-1))


@pytest.mark.parametrize(
  "name", [pytest.param(name, marks=() if name == "semseg_pspnet" else pytest.mark.slow) for name in NETWORKS]
)
def test_a_converted_network_runs_through_every_command(
  name, tmp_path, published, draw, config_file, shared_data, monkeypatch
):
  monkeypatch.setitem(xception.MIDDLE, 41, 0)  # its eight modules take a minute to compile
  backbone, head = NETWORKS[name]
  arrays, ours, _ = published(name, backbone, head, 3, draw)
  np.savez(tmp_path / "published.npz", **arrays)
  given, run = tmp_path / "given", tmp_path / "run"
  words = [f"--from={name}", f"--weights={tmp_path / 'published.npz'}", f"--out={given}"]
  assert main(["convert", *words]) == 0
  assert (
    main(["evaluate", f"--workdir={given}", f"--config.data.root={shared_data}", "--config.num_devices=1"])
    == 0
  )
  words = [f"--config={config_file}", f"--config.segmenter.init={given}", "--config.num_devices=1"]
  assert main(["train", *words, f"--workdir={run}"]) == 0
  assert main(["evaluate", f"--workdir={run}"]) == 0
  results = [json.loads((workdir / "results.json").read_text()) for workdir in (given, run)]
  # The converted workdir numbers its classes, the run names them.
  given_scores, run_scores = (list(result["semantic"]["IoU"].values()) for result in results)
  assert given_scores == run_scores
  over = load_config(given).segmenter.size_remainder
  image = np.random.default_rng(0).integers(0, 255, (64 + over, 96 + over, 3), dtype=np.uint8)
  Image.fromarray(image).save(tmp_path / "image.png")
  assert main(["predict", f"--workdir={run}", str(tmp_path / "image.png")]) == 0
  assert len(list(csv.DictReader((run / "predictions/predictions.csv").open()))) == 1
  np.testing.assert_array_equal(
    errseg.load(run).predict(image).semantic_labels, semantic_labels(load_config(given), ours, image)
  )


def test_a_converted_network_is_trained_on_as_a_cascade(tmp_path, published, draw, tiny_config):
  """Its head is the coarse branch: at a learning rate of 0 with the published weights."""
  arrays, ours, _ = published("torchvision_fcn", SMALL, {"name": "fcn", "features": 8}, 3, draw)
  np.savez(tmp_path / "published.npz", **arrays)
  given, run = tmp_path / "given", tmp_path / "run"
  words = ["--from=torchvision_fcn", f"--weights={tmp_path / 'published.npz'}", f"--out={given}"]
  assert main(["convert", *words]) == 0
  config = cascade(tiny_config(), 8)
  config.stages.cascade.steps, config.stages.cascade.optimizer.learning_rate = 2, 0.0
  (tmp_path / "config.json").write_text(config.to_json())
  (tmp_path / "cascade.py").write_text(CONFIG.format(folder=str(tmp_path)))
  words = [
    f"--config={tmp_path / 'cascade.py'}",
    f"--config.segmenter.init={given}",
    "--config.num_devices=1",
  ]
  assert main(["train", *words, f"--workdir={run}"]) == 0
  assert main(["evaluate", f"--workdir={run}"]) == 0
  assert {"semantic", "detail", "fused", "error"} <= set(json.loads((run / "results.json").read_text()))
  trained = errseg.load(run).variables["params"]["segmenter"]
  jax.tree.map(np.testing.assert_array_equal, trained, ours["params"])


def test_the_flag_brings_architecture_and_preprocessing_along(trained, config_file):
  words = [
    f"--config={config_file}",
    "--config.segmenter.head.dropout=0.3",
    f"--config.segmenter.init={trained}",
  ]
  config = commands.required_config(cli.parse("train", words))
  there = load_config(trained).segmenter
  assert config.segmenter.backbone == there.backbone
  assert (config.segmenter.head.rates, config.segmenter.mean) == (there.head.rates, there.mean)
  assert (config.segmenter.head.dropout, config.segmenter.init) == (0.3, str(trained))
