"""MSRC-21 (372 train, 80 val, 21 classes, about 320x213): SqueezeNet DeepLabv3+ with both branches, on a CPU.

    export SQUEEZENET_WEIGHTS=squeezenet1_1_imagenet.npz
    errseg train --config=configs/msrc21_squeezenet_error_detail.py --config.data.root=$MSRC21 --workdir=W

`:subnets` trains subnets for the classes that it confuses (P1), `:cascade` coarse, attention and refine branches at
once (P2), as long as all stages of the default, `:guided` the network on with guidance by image classification (P3),
`:local` the same of a network like P3's own, whose scores are local: atrous pooling sees the whole image already.
The folder holds images/{train,val} and labels/{train,val}; 255 is ignored.
"""

import os

from errseg_jax.config import cascade_exiting_early, default_config, guided, stage
from errseg_jax.errors import UserError

CLASSES = [
  "building",
  "grass",
  "tree",
  "cow",
  "sheep",
  "sky",
  "aeroplane",
  "water",
  "face",
  "car",
  "bicycle",
  "flower",
  "sign",
  "bird",
  "book",
  "chair",
  "road",
  "cat",
  "dog",
  "body",
  "boat",
]
DETAIL_STEPS, ERROR_STEPS = 1000, 150


def get_config(arg=None):
  config = default_config()
  config.data = {"name": "folders", "root": "", "class_names": tuple(CLASSES)}
  config.splits.runs = 0  # photographs, not frames of a video
  config.transform.crop_size = (160, 192)
  config.transform.scale_max = 1.5
  config.segmenter.backbone = {"name": "squeezenet", "output_stride": 16}
  config.segmenter.backbone_weights = os.environ.get("SQUEEZENET_WEIGHTS", "")  # .npz, ImageNet
  config.segmenter.head = {"name": "deeplabv3plus", "features": 64, "low_features": 32, "separable": False}
  config.segmenter.mean = (123.0, 117.0, 104.0)  # as the ImageNet weights were trained
  config.segmenter.std = (1.0, 1.0, 1.0)
  config.segmenter.channels = "bgr"
  config.error_branch = {"name": "error", "prior": "detail", "features": 48}
  # The pretrained backbone has no normalisation: it wants smaller steps than the new head.
  semantic = {"weight_decay": 1e-4, "multipliers": {"segmenter/backbone": 0.3}, "eval_every": 1000}
  config.stages.semantic = stage(3000, 1e-3, **semantic)
  config.stages.detail = stage(DETAIL_STEPS, 2e-3, ema=0.99)
  config.stages.error = stage(ERROR_STEPS, 1e-3)
  config.stages.control = stage(DETAIL_STEPS + ERROR_STEPS, 5e-4, **semantic)
  config.stages.subnets = stage(DETAIL_STEPS + ERROR_STEPS, 2e-3, ema=0.99)
  config.subnets_loss.pixel = {"name": "confusion"}
  # The network knows its 335 training images almost by heart: little of what it confuses on others shows there.
  config.groups.method, config.groups.threshold = "hierarchical", 0.02
  if arg == "subnets":
    config.order = ("semantic", "subnets")
  elif arg == "cascade":
    config = cascade_exiting_early(config, features=128)
    config.segmenter.backbone.output_stride = 8
    config.stages.cascade = stage(3000 + DETAIL_STEPS + ERROR_STEPS, 1e-3, **semantic)
  elif arg == "guided":
    config = guided(config)
  elif arg == "local":
    config.segmenter.head = {"name": "local", "features": 128, "dilation": 6}
    config = guided(config)
    config.guidance.features, config.guidance.hidden = 128, 1024
  elif arg:
    raise UserError(f"unknown argument {arg!r} of this config; known: subnets, cascade, guided, local")
  return config
