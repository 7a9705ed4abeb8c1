"""Your own images: a pair of folders `images/{split}`, `labels/{split}` with equal stems.

    errseg train --config=configs/folders.py --config.data.root=DIR --config.data.num_classes=N --workdir=W

DeepLabv3+ on ResNet-50, its detail branch and its error branch; sized for one GPU. On a CPU start with
`configs/folders.py:small`. A network that is trained already: `--config.segmenter.init=WORKDIR`.
"""

from errseg_jax.config import default_config, stage
from errseg_jax.errors import UserError


def get_config(arg=None):
  config = default_config()
  config.data = {"name": "folders", "root": "", "num_classes": 0, "class_names": ()}
  config.stages.semantic = stage(20_000, 1e-3, weight_decay=1e-4, eval_every=2000)
  config.stages.detail = stage(10_000, 1e-3, eval_every=2000)
  config.stages.error = stage(3000, 1e-3, eval_every=1000)
  config.stages.control = stage(13_000, 5e-4, weight_decay=1e-4, eval_every=2000)
  if arg == "small":
    config.transform.crop_size = (160, 208)
    config.segmenter.backbone = {"name": "resnet", "depth": 18, "width": 24, "output_stride": 16}
    config.segmenter.head = {"name": "deeplabv3plus", "features": 48, "low_features": 24, "separable": False}
    config.error_branch = {"name": "error", "prior": "detail", "features": 24}
    for name, steps in (("semantic", 1600), ("detail", 500), ("error", 200), ("control", 700)):
      config.stages[name].steps = steps
      config.stages[name].eval_every = 0
    config.stages.semantic.optimizer.learning_rate = 3e-3  # from nothing, in few steps
    config.stages.detail.optimizer.learning_rate = 3e-3
  elif arg:
    raise UserError(f"unknown argument {arg!r} of this config; known: small")
  return config
