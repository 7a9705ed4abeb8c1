"""CamVid (SegNet split, 11 classes, 480x360): SqueezeNet DeepLabv3+ with error and detail branches, on a CPU.

    export SQUEEZENET_WEIGHTS=squeezenet1_1_imagenet.npz
    errseg train --config=configs/camvid_squeezenet_error_detail.py --config.data.root=$CAMVID --workdir=W

P0 (Gong et al. 2021) attached to a small network. The default differs from the paper where first trials asked
for it: the detail branch is residual and learns on every pixel, the error branch starts from the detail
branch's disbelief, and what is fused is chosen on held-out images. `:paper` is P0 as published, on the network
of another workdir (`--config.segmenter.init=W`); `:control` trains that network on for as many steps as the
branches took. `:cascade` trains coarse, attention and refine branches at once (P2), as long as all of these
stages. `:half` is everything at 240x180 with a network trained for longer: what
`errseg ablate` compares methods on. Expected times and scores: README, "Results".
"""

import os

from errseg_jax.config import cascade_exiting_early, default_config, paper, stage
from errseg_jax.errors import UserError

DETAIL_STEPS, ERROR_STEPS = 1000, 150


def get_config(arg=None):
  config = default_config()
  config.data = {"name": "camvid", "root": ""}
  config.transform.crop_size = (224, 288)
  config.transform.scale_max = 1.5  # evaluation is at scale 1
  config.segmenter.backbone = {"name": "squeezenet", "output_stride": 16}
  config.segmenter.backbone_weights = os.environ.get("SQUEEZENET_WEIGHTS", "")  # .npz, ImageNet
  # Dense convolutions: on a CPU their gradient is faster than that of depthwise ones of twice the width.
  config.segmenter.head = {
    "name": "deeplabv3plus",
    "features": 64,
    "low_features": 32,
    "separable": False,
  }
  config.segmenter.mean = (123.0, 117.0, 104.0)  # as the ImageNet weights were trained
  config.segmenter.std = (1.0, 1.0, 1.0)
  config.segmenter.channels = "bgr"
  config.error_branch = {"name": "error", "prior": "detail", "features": 48}
  config.order = ("semantic", "detail", "error")
  # The pretrained backbone has no normalisation: it wants smaller steps than the new head.
  backbone = {"segmenter/backbone": 0.3}
  semantic = {"weight_decay": 1e-4, "multipliers": backbone, "eval_every": 1000}
  config.stages.semantic = stage(3000, 1e-3, **semantic)
  config.stages.detail = stage(DETAIL_STEPS, 2e-3, ema=0.99)
  config.stages.error = stage(ERROR_STEPS, 1e-3)
  config.stages.control = stage(DETAIL_STEPS + ERROR_STEPS, 5e-4, **semantic)
  if arg == "half":
    config.data.downscale = 2
    config.transform.crop_size = (128, 160)
    config.stages.semantic.steps = 8000
  elif arg == "paper":
    config.order = ("error", "detail")
    config = paper(config)
  elif arg == "control":
    config.order = ("control",)
  elif arg == "cascade":
    config = cascade_exiting_early(config, features=128)
    config.segmenter.backbone.output_stride = 8
    config.stages.cascade = stage(3000 + DETAIL_STEPS + ERROR_STEPS, 1e-3, **semantic)
  elif arg:
    raise UserError(f"unknown argument {arg!r} of this config; known: half, paper, control, cascade")
  return config
