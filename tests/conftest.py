"""Eight virtual CPU devices, strict broadcasting, and a run so small that it trains in seconds."""

import os
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from errseg_jax import config as configs
from errseg_jax.models.backbones import resnet
from errseg_jax.train import initialise

# The programs of the tests are compiled once and run for milliseconds: LLVM's optimisations cost more than they give.
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "")
  + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
  + " --xla_cpu_use_fusion_emitters=false"
)
CACHE = os.environ.setdefault("ERRSEG_CACHE", str(pathlib.Path("~/.cache/errseg_jax/tests").expanduser()))
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

# One block a stage: half the compile time of the smallest published network.
resnet.BLOCKS[10] = (1, 1, 1, 1)
initialise.QUICK = None  # the flags above are quicker still

CLASSES = ("ground", "wall", "sign")
COLOURS = np.array([(60, 60, 60), (170, 60, 50), (60, 160, 70)])
COUNTS = {"train": 12, "choose": 4, "val": 5}


def make_sample(rng: np.random.Generator, height: int = 32, width: int = 48):
  """A wall beside the ground, a sign on either, an ignored border; colours overlap, so some pixels stay wrong."""
  label = np.zeros((height, width), np.uint8)
  label[:, : rng.integers(width // 4, width // 2)] = 1
  top, left = rng.integers(4, height - 14), rng.integers(4, width - 14)
  label[top : top + 10, left : left + 10] = 2
  image = COLOURS[label] + rng.normal(0, 45, (height, width, 3)) + rng.normal(0, 15)
  label[:2] = 255
  return image.clip(0, 255).astype(np.uint8), label


def write_folders(root: pathlib.Path, counts=COUNTS) -> pathlib.Path:
  """A data set in the layout of `folders`."""
  rng = np.random.default_rng(0)
  for split, count in counts.items():
    for folder in ("images", "labels"):
      (root / folder / split).mkdir(parents=True)
    for i in range(count):
      image, label = make_sample(rng)
      Image.fromarray(image).save(root / "images" / split / f"{split}_{i}.png")
      Image.fromarray(label).save(root / "labels" / split / f"{split}_{i}.png")
  return root


def make_config(root: pathlib.Path, **changes):
  """The default config shrunk to `write_folders`; `stages__error__steps=3` sets stages.error.steps."""
  config = configs.default_config()
  config.num_devices = 1
  config.data = {"name": "folders", "root": str(root), "num_classes": 3, "class_names": CLASSES}
  config.splits.choose = "choose"
  config.transform.crop_size = (32, 32)
  config.transform.scale_min, config.transform.scale_max = 0.75, 1.25
  config.segmenter.backbone = {"name": "resnet", "depth": 10, "width": 8, "output_stride": 16}
  config.segmenter.head = {
    "name": "deeplabv3plus",
    "features": 16,
    "low_features": 8,
    "rates": (1, 2, 3),
    "separable": False,
  }
  config.order = ("semantic", "error", "detail")
  config.error_branch = {"name": "error", "prior": "msp", "features": 8}
  config.detail_branch.features = (8, 8, 8)
  config.detail_branch.dropout = 0.1
  config.subnets.features = 8
  config.guidance.update(features=8, hidden=8, cells=3)
  for name in (
    "semantic",
    "finetune",
    "guided",
    "guidance",
    "subnets",
    "error",
    "detail",
    "control",
    "cascade",
  ):
    config.stages[name] = configs.stage(4, 3e-3, save_every=3, eval_every=2)
  config.train.log_every = 2
  config.train.log_images = 0  # a program more per stage
  for key, value in changes.items():
    *path, last = key.split("__")
    section = config
    for name in path:
      section = section[name]
    section[last] = value
  return config


@pytest.fixture(scope="session")
def shared_data(tmp_path_factory):
  """A tiny data set that no test changes."""
  return write_folders(tmp_path_factory.mktemp("data"))


@pytest.fixture
def own_data(tmp_path):
  """A tiny data set that the test may damage."""
  return write_folders(tmp_path / "data")


@pytest.fixture(scope="session")
def tiny_config(shared_data):
  """(**changes) -> a config whose training takes seconds."""
  return lambda **changes: make_config(shared_data, **changes)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tiny_config):
  """The workdir of a finished run; read only. The config trains detail before error, and averages weights."""
  from errseg_jax.assemble import with_defaults
  from errseg_jax.train.trainer import Trainer

  workdir = tmp_path_factory.mktemp("trained") / "run"
  config = tiny_config(
    error_branch__prior="detail",
    order=("semantic", "detail", "error"),
    stages__semantic__steps=30,
    stages__semantic__eval_every=15,
    stages__error__ema=0.9,
  )
  Trainer(with_defaults(config), workdir).run()
  return workdir


def snapshot(folder: pathlib.Path) -> dict[str, bytes]:
  """Every file below a folder, to show that a command changed nothing."""
  return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
