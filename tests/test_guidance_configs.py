"""The configs of P3: the paper's experiments, and guidance of the small data sets."""

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
from errseg_jax.errors import UserError
from errseg_jax.models.backbones import resnet
from errseg_jax.train import given
from errseg_jax.train.stages import plan

FOLDER = pathlib.Path(__file__).parents[1] / "configs"
RESNET, VGG = ("resnet", 16, 16), ("vgg", 8, 1)
# config: data set, then backbone, output stride, images in a step
PAPER = {
  "voc_resnet101_guidance": ("voc", *RESNET),
  "voc_resnet101_guidance:coco": ("coco", *RESNET),
  "cityscapes_resnet101_guidance": ("cityscapes", *RESNET),
  "ade20k_resnet101_guidance": ("ade20k", *RESNET),
  "voc_vgg16_guidance": ("voc", *VGG),
}


def config_of(name, arg=""):
  name, _, own = name.partition(":")
  return load(f"{FOLDER / name}.py:{arg or own}", [])


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("arg", ["", "runlocal"])
def test_a_paper_config_builds(name, arg):
  config = config_of(name, arg)
  model = assemble.model(config, assemble.dataset(config).info.num_classes)
  assert (model.guidance.cells, model.views.each[0]) == (7, (1.2, False))
  assert len(model.views.each) == 6
  assert assemble.crf(config).iterations == 5
  assert assemble.crf(config).eps == 10.0
  assemble.loss(config, "guided")
  with pytest.raises(UserError, match=r"known: .*runlocal"):
    config_of(name, "papr")


@pytest.mark.parametrize("name", PAPER)
def test_p3_is_as_published(name):
  config = config_of(name)
  data, backbone, stride, batch = PAPER[name]
  (stage,) = plan(config)
  assert config.data.name == data
  assert (stage.name, stage.batch_size) == ("guided", batch)
  section = config.segmenter.backbone
  assert (section.name, section.output_stride) == (backbone, stride)
  assert config.segmenter.head.features == 1024
  assert config.segmenter.head.dilation == 12 * 8 // stride
  assert (config.guidance.features, config.guidance.hidden) == (512, 4096)
  sgd = stage.optimizer
  expected = {"resnet": (1e-2, 0.9, 1e-4), "vgg": (1e-5, 0.99, 5e-4)}[backbone]
  assert (sgd.learning_rate, sgd.momentum, sgd.weight_decay) == expected
  assert config.transform.crop_size == (512, 512)


def test_coco_is_labelled_as_voc_is_and_both_networks_fit():
  runs = [config_of("voc_resnet101_guidance", arg) for arg in ("coco", "", "train")]
  assert [run.splits.train for run in runs] == ["train2017", "trainaug", "train"]
  infos = [assemble.dataset(run).info for run in runs]
  assert infos[0].classes == infos[1].classes
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)
  shapes = [jax.eval_shape(assemble.model(run, 21).init, jax.random.key(0), image) for run in runs[:2]]
  assert jax.tree.map(lambda x: x.shape, shapes[0]) == jax.tree.map(lambda x: x.shape, shapes[1])


def test_fine_tuning_goes_on_from_trainaug_without_unseen_images(monkeypatch):
  first, then = (config_of("voc_resnet101_guidance", arg) for arg in ("", "train"))
  monkeypatch.setattr(given, "load_config", lambda _: first)
  then.segmenter.init = "W1"
  given.check_given(then)
  assert (then.train.select, assemble.splits(then).both_ways) == ("last", True)
  then.splits.choose = ""
  with pytest.raises(UserError, match=r"splits\.train='trainaug'"):
    given.check_given(then)


@pytest.mark.parametrize("name", ["msrc21_squeezenet_error_detail", "scenes_demo"])
def test_small_data_is_guided_for_as_long_as_the_control(name):
  config = config_of(name, "guided")
  assert config.order == ("semantic", "guided")
  assert config.stages.guided.steps == config.stages.control.steps
  assert assemble.model(config, 21).guidance.hidden == 16 * config.segmenter.head.features


def test_the_local_network_is_guided_as_the_other_is():
  config, other = (config_of("msrc21_squeezenet_error_detail", arg) for arg in ("local", "guided"))
  assert config.segmenter.head.name == "local"
  assert config.order == other.order
  assert config.stages.to_dict() == other.stages.to_dict()
  assert (config.guidance.features, config.guidance.hidden) == (
    other.guidance.features,
    other.guidance.hidden,
  )


@pytest.mark.slow
def test_runlocal_trains_tunes_and_is_scored(tmp_path, monkeypatch):
  monkeypatch.setitem(resnet.BLOCKS, 18, (1, 1, 1, 1))
  rng, root = np.random.default_rng(0), tmp_path / "data"
  for folder in ("JPEGImages", "SegmentationClass", "SegmentationClassAug", "ImageSets/Segmentation"):
    (root / folder).mkdir(parents=True)
  for split, folder in (("trainaug", "SegmentationClassAug"), ("val", "SegmentationClass")):
    (root / "ImageSets/Segmentation" / f"{split}.txt").write_text("".join(f"{split}{i}\n" for i in range(10)))
    for i in range(10):
      label = rng.integers(0, 3, (8, 8), np.uint8).repeat(8, 0).repeat(8, 1)
      image = (label[..., None] * 90 + rng.normal(20, 20, (64, 64, 3))).clip(0, 255).astype(np.uint8)
      Image.fromarray(image).save(root / "JPEGImages" / f"{split}{i}.jpg")
      Image.fromarray(label).save(root / folder / f"{split}{i}.png")
  name, run = f"{FOLDER}/voc_resnet101_guidance.py:runlocal", f"--workdir={tmp_path / 'run'}"
  flags = [f"--config.data.root={root}", "--config.num_devices=1", "--config.splits.choose_fraction=0.3"]
  assert main(["train", f"--config={name}", *flags, run]) == 0
  assert main(["evaluate", run]) == 2  # the config asks for what has to be tuned first
  assert main(["tune", run]) == 0
  assert main(["evaluate", run, "--oracle"]) == 0
  results = json.loads((tmp_path / "run" / "results.json").read_text())
  assert {"base", "semantic", "crf", "oracle", "presence", "views"} <= results.keys()
