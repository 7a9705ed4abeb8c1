"""The configs of P2: the paper's experiments, and the cascade of the small data sets."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from errseg_jax import assemble
from errseg_jax.cli import main
from errseg_jax.config_flags import load
from errseg_jax.errors import UserError
from errseg_jax.models.backbones import resnet
from errseg_jax.models.cascade import Refine
from errseg_jax.train.stages import plan

FOLDER = pathlib.Path(__file__).parents[1] / "configs"
# name: classes of its tasks
PAPER = {"sift_flow": {"": 33, "geometric": 3}, "stanford_background": {"": 8}}
SMALL = ("camvid_squeezenet_error_detail", "msrc21_squeezenet_error_detail", "scenes_demo")
SIFT = "spatial_envelope_256x256_static_8outdoorcategories"


def config_of(name, arg=""):
  return load(f"{FOLDER / name}.py:{arg}", [])


@pytest.mark.parametrize(
  ("name", "arg"), [(n, a) for n, tasks in PAPER.items() for a in (*tasks, "runlocal")]
)
def test_a_paper_config_builds(name, arg):
  config = config_of(f"{name}_resnet50_cascade", arg)
  info = assemble.dataset(config).info
  assert (config.data.name, info.num_classes) == (name, PAPER[name].get(arg, PAPER[name][""]))
  assert (config.splits.val, config.segmenter.backbone.output_stride) == ("test", 8)
  model = assemble.model(config, info.num_classes)
  assert (model.refine, type(model.detail).__name__) == (Refine(), "PyramidBranch")
  assert model.detail.bins == (1, 2, 3, 6)
  assert model.early_exit is None
  assert config.cascade_loss.get("fine", 0.0) == 0.0
  assemble.loss(config, "cascade")
  with pytest.raises(UserError, match="unknown argument"):
    config_of(f"{name}_resnet50_cascade", "papr")


@pytest.mark.parametrize("name", SMALL)
def test_small_data_has_a_cascade_as_long_as_its_stages(name):
  config, staged = config_of(name, "cascade"), config_of(name)
  steps = sum(staged.stages[stage].steps for stage in ("semantic", "detail", "error"))
  (stage,) = plan(config)
  assert (stage.name, stage.steps) == ("cascade", steps)
  own, semantic = config.stages.cascade.optimizer, staged.stages.semantic.optimizer
  assert own.to_dict() == semantic.to_dict()
  model = assemble.model(config, 11)
  assert model.refine is not None
  assert (model.early_exit.threshold, config.cascade_loss.fine) == (0.7, 1.0)


def write_images(root, suffix=""):
  rng = np.random.default_rng(0)
  for i in range(10):
    image = Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8))
    path = root / "images" / f"{i}.jpg" if not suffix else root / "Images" / SIFT / f"{i}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    yield str(i), rng.integers(-1, 3, (8, 8)).repeat(8, 0).repeat(8, 1)


def write_sift_flow(root):
  (root / "SemanticLabels" / SIFT).mkdir(parents=True)
  for name, label in write_images(root, SIFT):
    savemat(root / "SemanticLabels" / SIFT / f"{name}.mat", {"S": (label + 1).astype(np.uint8)})
  (root / "TestSet1.txt").write_text("".join(f"{SIFT}\\{i}.jpg\n" for i in range(2)))


def write_stanford_background(root):
  (root / "labels").mkdir(parents=True)
  for name, label in write_images(root):
    np.savetxt(root / "labels" / f"{name}.regions.txt", label, fmt="%d")


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_sift_flow, write_stanford_background])
def test_a_rehearsal_goes_from_files_to_scores(write, tmp_path, monkeypatch):
  monkeypatch.setitem(resnet.BLOCKS, 18, (1, 1, 1, 1))
  write(tmp_path / "data")
  config = FOLDER / f"{write.__name__.removeprefix('write_')}_resnet50_cascade.py"
  flags = [f"--config.data.root={tmp_path / 'data'}", "--config.num_devices=1"]
  flags += ["--config.splits.choose_fraction=0.25"]
  assert main(["train", f"--config={config}:runlocal", f"--workdir={tmp_path / 'run'}", *flags]) == 0
  assert main(["evaluate", f"--workdir={tmp_path / 'run'}", "--config.num_devices=1"]) == 0
  results = json.loads((tmp_path / "run" / "results.json").read_text())
  assert results["split"] == "test"
  assert 0 <= results["fused"]["aAcc"] <= 100
