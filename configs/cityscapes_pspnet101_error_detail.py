"""Cityscapes: PSPNet ResNet-101 with error and detail branches (P0, Gong et al. 2021).

    C=configs/cityscapes_pspnet101_error_detail.py
    errseg train --config=$C --config.data.root=$CITYSCAPES --config.segmenter.init=DIR --workdir=W
    errseg evaluate --workdir=W

DIR is the converted network (docs/experiments.md). The default is ours: a residual detail branch that learns on
every pixel, an error branch that starts from its disbelief, a fusion that is chosen. `:paper` is P0 as published,
`:runlocal` a rehearsal of every step with a small network from random weights on a few images.

Published, val: mIoU 79.70 semantic, 80.35 fused; error IoU 27.10, hard recall 31.04 at t = 0.7 (Table 4).
Ours: times and scores not measured.
"""

from errseg_jax.config import default_config, given_network, paper, runlocal, stage
from errseg_jax.errors import UserError


def get_config(arg=None):
  config = default_config()
  config.data = {"name": "cityscapes", "root": ""}
  config.transform.crop_size = (713, 713)
  config.transform.photometric = 0.0  # P0 has none
  config.loader.threads = 8  # decoding 2048x1024 PNGs
  config.loader.eval_batch_size = 1  # whole images
  # The published network as `errseg convert` describes it; that of segmenter.init takes its place.
  config.segmenter.backbone = {
    "name": "resnet",
    "depth": 101,
    "output_stride": 8,
    "stem": "semseg",
    "first_dilation": "stage",
  }
  config.segmenter.head = {"name": "pspnet", "align_corners": True, "auxiliary_features": 256}
  config.segmenter.size_remainder = 1  # 1025x2049
  config.detail_branch.features = (192, 128, 128)  # about the 11.6 MB that P0 gives
  # P0 gives neither learning rate nor batch size.
  config.stages.error = stage(60_000, 1e-3)
  config.stages.detail = stage(90_000, 1e-3)
  config = given_network(config)
  if arg == "paper":
    config = paper(config)
  elif arg == "runlocal":
    config = runlocal(config)
    config.segmenter.backbone.update(depth=18, width=8)
    config.segmenter.head.update(features=16, auxiliary_features=8)
  elif arg:
    raise UserError(f"unknown argument {arg!r} of this config; known: paper, runlocal")
  return config
