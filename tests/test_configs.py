"""The configs of the papers' experiments: what they say, and a rehearsal of each on generated files."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from errseg_jax import assemble
from errseg_jax.cli import main
from errseg_jax.config_flags import load
from errseg_jax.data.class_groups import PUBLISHED
from errseg_jax.errors import UserError
from errseg_jax.losses import DetailLoss, ErrorLoss
from errseg_jax.models.backbones import resnet, xception
from errseg_jax.models.heads import deeplabv3plus_rules, dpc_rules, pspnet_rules
from errseg_jax.pixel_losses import Confusion

FOLDER = pathlib.Path(__file__).parents[1] / "configs"
# name: data set, crop of the paper, fields of the published head
CONFIGS = {
  "cityscapes_xception65_error_detail": ("cityscapes", 769, deeplabv3plus_rules.FIELDS["tf"]),
  "cityscapes_pspnet101_error_detail": ("cityscapes", 713, pspnet_rules.FIELDS["semseg"]),
  "cityscapes_dpc71_error_detail": ("cityscapes", 769, dpc_rules.FIELDS["tf"]),
  "ade20k_xception65_error_detail": ("ade20k", 513, deeplabv3plus_rules.FIELDS["tf"]),
}
COUNTS = {"train": 4, "val": 4}
# P1's: data set, published groups, epochs and images of the paper
SUBNETS = {
  "cityscapes_resnet101_subnets": ("cityscapes", "cityscapes", 100, 2975),
  "cityscapes_wrn38_subnets": ("cityscapes", "cityscapes", 100, 2975),
  "voc_resnet101_subnets": ("voc", "voc", 80, 10582),
}


def sample(rng):
  """Image and class map (0, 1, 2): ground, a wall to the left, a square sign."""
  label = np.zeros((64, 96), np.uint8)
  label[:, : rng.integers(20, 50)] = 1
  top, left = rng.integers(0, 40, 2)
  label[top : top + 24, left : left + 24] = 2
  colours = np.array([(60, 60, 60), (170, 60, 50), (60, 160, 70)])
  return (colours[label] + rng.normal(0, 30, (64, 96, 3))).clip(0, 255).astype(np.uint8), label


def save(array, path):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(array).save(path)


def write_cityscapes(root, rng):
  ids = np.array([7, 12, 20], np.uint8)  # road, wall, traffic sign
  for split, count in COUNTS.items():
    for i in range(count):
      image, label = sample(rng)
      name = f"{split}/ulm/ulm_{i:06}_000019"
      save(image, root / f"leftImg8bit/{name}_leftImg8bit.png")
      save(ids[label], root / f"gtFine/{name}_gtFine_labelIds.png")


def write_ade20k(root, rng):
  values = np.array([4, 1, 44], np.uint8)  # floor, wall, signboard
  for split, folder in (("train", "training"), ("val", "validation")):
    for i in range(COUNTS[split]):
      image, label = sample(rng)
      save(image, root / f"images/{folder}/ADE_{split}_{i:08}.jpg")
      save(values[label], root / f"annotations/{folder}/ADE_{split}_{i:08}.png")


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
  """Data set name -> a folder in its official layout."""
  writers = {"cityscapes": write_cityscapes, "ade20k": write_ade20k}
  folders = {name: tmp_path_factory.mktemp(name) for name in writers}
  for name, write in writers.items():
    write(folders[name], np.random.default_rng(0))
  return folders


def config_of(name, arg=""):
  return load(f"{FOLDER / name}.py:{arg}", [])


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("arg", ["", "paper", "runlocal"])
def test_a_config_builds(name, arg):
  config = config_of(name, arg)
  dataset = assemble.dataset(config)
  assert config.data.name == dataset.info.name == CONFIGS[name][0]
  model = assemble.model(config, dataset.info.num_classes)
  assert model.error.prior == ("none" if arg == "paper" else "detail")
  for stage in ("error", "detail"):
    assemble.loss(config, stage)
  assemble.transform(config)


@pytest.mark.parametrize("name", CONFIGS)
def test_paper_is_p0_as_published(name):
  config = config_of(name, "paper")
  steps = {stage: config.stages[stage].steps for stage in config.order}
  assert steps == {"error": 60_000, "detail": 90_000}
  assert list(steps) == ["error", "detail"]
  for stage in steps:
    optimizer = config.stages[stage].optimizer
    assert (optimizer.name, optimizer.power) == ("adam", 0.9)
  transform = config.transform
  assert transform.crop_size == (CONFIGS[name][1],) * 2
  assert (transform.scale_min, transform.scale_max, transform.scale_step) == (0.5, 2.0, 0.25)
  assert (transform.rotation, transform.flip, transform.photometric) == (10.0, True, 0.0)
  assert assemble.loss(config, "error") == ErrorLoss(w1=1.0, w2=1.5, rho=0.95)
  assert assemble.loss(config, "detail") == DetailLoss("mask", 0.7)
  assert (config.choose.fusions, config.choose.thresholds) == (("mask",), (0.7,))


@pytest.mark.parametrize("name", SUBNETS)
def test_p1_is_as_published(name):
  data, groups, epochs, images = SUBNETS[name]
  config = config_of(name)
  assert config.data.name == data
  assert config.groups.named == PUBLISHED[groups]
  model = assemble.model(config, assemble.dataset(config).info.num_classes)
  assert [len(group) for group in model.subnets.groups] == [len(group) for group in PUBLISHED[groups]]
  loss = assemble.loss(config, "subnets")
  assert (model.subnets.rule, loss.jaccard) == ("product", 0.0)
  assert loss.pixel == Confusion(strength=5.0, weights="raw", diag="one")
  for stage in ("semantic", "subnets"):
    section = config.stages[stage]
    assert section.steps * section.batch_size == pytest.approx(epochs * images, rel=0.01)
    sgd = section.optimizer
    assert (sgd.name, sgd.momentum, sgd.weight_decay) == ("sgd", 0.9, 5e-4)
    assert (sgd.learning_rate, sgd.power) == (2e-3, 1.0)
  with pytest.raises(UserError, match="known: runlocal"):
    config_of(name, "paper")


@pytest.mark.parametrize("name", ["msrc21_squeezenet_error_detail", "scenes_demo"])
def test_small_data_has_the_comparison_of_p1_too(name):
  config = config_of(name, "subnets")
  assert config.order == ("semantic", "subnets")
  assert config.stages.subnets.steps == config.stages.control.steps
  assert config.subnets_loss.pixel.name == "confusion"


@pytest.mark.slow
def test_runlocal_of_p1_goes_through_every_stage(roots, tmp_path, monkeypatch):
  monkeypatch.setitem(resnet.BLOCKS, 18, (1, 1, 1, 1))
  flags = [f"--config.data.root={roots['cityscapes']}", "--config.num_devices=1", f"--workdir={tmp_path}"]
  flags += ["--config.splits.choose=val", "--config.train.select=last"]  # too few images to hold some out
  assert main(["train", f"--config={FOLDER}/cityscapes_resnet101_subnets.py:runlocal", *flags]) == 0
  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert {line["stage"] for line in lines} == {"semantic", "subnets"}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_head_is_the_one_whose_weights_are_published(name):
  head, fields = config_of(name).segmenter.head, CONFIGS[name][2]
  assert {key: head[key] for key in fields} == fields


@pytest.mark.parametrize(
  ("name", "millions"),
  [
    ("cityscapes_xception65_error_detail", 41.05),
    ("cityscapes_pspnet101_error_detail", 68.07),
    ("cityscapes_dpc71_error_detail", 41.61),
  ],
)
def test_network_and_detail_branch_are_of_the_published_size(name, millions):
  model = assemble.model(config_of(name, "paper"), 19)
  image = jax.ShapeDtypeStruct((1, 65, 65, 3), jnp.uint8)
  params = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
  count = {group: sum(leaf.size for leaf in jax.tree.leaves(tree)) for group, tree in params.items()}
  assert count["segmenter"] / 1e6 == pytest.approx(millions, abs=0.005)
  assert 4 * count["detail"] / 1e6 == pytest.approx(11.6, abs=0.4)  # MB


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_is_picked_by_what_is_reported(name):
  config = config_of(name)
  assert assemble.splits(config).both_ways
  assert config.train.select == "last"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_forgotten_network_and_a_wrong_argument_are_said(name, roots, tmp_path, capsys):
  root = roots[CONFIGS[name][0]]
  flags = [f"--config.data.root={root}", f"--workdir={tmp_path / 'run'}"]
  assert main(["train", f"--config={FOLDER / name}.py", *flags]) == 2
  assert "neither segmenter.init nor" in capsys.readouterr().err
  with pytest.raises(UserError, match="known: paper, runlocal"):
    config_of(name, "papr")


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=pytest.mark.slow if "xception" in name or "dpc" in name else ())
    for name in CONFIGS
  ],
)
def test_runlocal_goes_through_every_stage(name, roots, tmp_path, monkeypatch):
  # The smallest published networks are still so deep that they take minutes to compile.
  monkeypatch.setitem(resnet.BLOCKS, 18, (1, 1, 1, 1))
  monkeypatch.setitem(xception.MIDDLE, 41, 0)
  root = roots[CONFIGS[name][0]]
  flags = [f"--config.data.root={root}", "--config.num_devices=1", f"--workdir={tmp_path}"]
  assert main(["train", f"--config={FOLDER / name}.py:runlocal", *flags]) == 0
  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert {line["stage"] for line in lines} == {"semantic", "detail", "error"}
  choice = json.loads((tmp_path / "choice.json").read_text())
  assert "each half for the other half" in choice["on"]
