"""Generated street scenes: the whole method in minutes on two CPU cores; no download.

    errseg train --config=configs/scenes_demo.py --workdir=runs/demo
    errseg evaluate --workdir=runs/demo && errseg report --workdir=runs/demo

A small ResNet DeepLabv3+ from scratch, then the detail branch on its frozen features, then the error branch
(P0, Gong et al. 2021; options as in docs/paper_differences.md). The last stage trains the
semantic network on for as many steps as both branches took: what the gain must be held against.
`:subnets` trains subnets for the classes that it confuses (P1), `:stacked` both branches on top of those, `:cascade`
coarse, attention and refine branches at once (P2), `:guided` the network on with guidance by image classification (P3).
Expected times and scores: README, "Results".
"""

from errseg_jax.config import cascade_exiting_early, default_config, guided, stage
from errseg_jax.errors import UserError

DETAIL_STEPS, ERROR_STEPS = 500, 200


def get_config(arg=None):
  config = default_config()
  config.data = {"name": "scenes", "num_train": 2000, "num_choose": 120, "num_val": 240, "seed": 0}
  config.splits.choose = "choose"
  config.transform.crop_size = (96, 144)
  config.transform.scale_min = 0.75
  config.transform.scale_max = 1.5
  config.transform.rotation = 5.0
  config.loader.eval_batch_size = 8
  config.segmenter.backbone = {"name": "resnet", "depth": 18, "width": 8, "output_stride": 16}
  config.segmenter.head = {
    "name": "deeplabv3plus",
    "features": 32,
    "low_features": 16,
    "separable": False,  # faster than depthwise on a CPU
    "dropout": 0.0,
  }
  config.error_branch = {"name": "error", "prior": "detail", "features": 16}
  config.detail_branch.update(residual=True, features=(48, 48, 24), encoder="all", encoder_features=16)
  config.order = ("semantic", "detail", "error", "control")
  config.stages.semantic = stage(3500, 3e-3, batch_size=8, weight_decay=1e-4)
  config.stages.detail = stage(DETAIL_STEPS, 3e-3, batch_size=8)
  config.stages.error = stage(ERROR_STEPS, 2e-3, batch_size=8)
  config.stages.control = stage(DETAIL_STEPS + ERROR_STEPS, 1.5e-3, batch_size=8, weight_decay=1e-4)
  config.stages.subnets = stage(DETAIL_STEPS + ERROR_STEPS, 2e-3, batch_size=8, ema=0.99)
  config.subnets_loss.pixel = {"name": "confusion"}
  if arg == "subnets":
    config.order = ("semantic", "subnets")
  elif arg == "stacked":
    config.order = ("subnets", "detail", "error")
  elif arg == "cascade":
    config = cascade_exiting_early(config, features=64)
    config.segmenter.backbone.output_stride = 8
    config.stages.cascade = stage(3500 + DETAIL_STEPS + ERROR_STEPS, 3e-3, batch_size=8, weight_decay=1e-4)
  elif arg == "guided":
    config = guided(config)
  elif arg:
    raise UserError(f"unknown argument {arg!r} of this config; known: subnets, stacked, cascade, guided")
  return config
