"""ADE20K (scene parsing, 150 classes): DeepLabv3+ Xception-65 with error and detail branches (P0, Gong et al. 2021).

    C=configs/ade20k_xception65_error_detail.py
    errseg train --config=$C --config.data.root=ADEChallengeData2016 --config.segmenter.init=DIR --workdir=W
    errseg evaluate --workdir=W

DIR is the converted network (docs/experiments.md). The default is ours: a residual detail branch that learns on
every pixel, an error branch that starts from its disbelief, a fusion that is chosen. `:paper` is P0 as published,
`:runlocal` a rehearsal of every step with a small network from random weights on a few images.

Published, val mIoU: 43.06 semantic, 43.51 fused; with several scales 45.65 and 45.73 (Table 6).
Ours: times and scores not measured.
"""

from errseg_jax.config import default_config, given_network, paper, runlocal, stage
from errseg_jax.errors import UserError


def get_config(arg=None):
  config = default_config()
  config.data = {"name": "ade20k", "root": ""}
  config.transform.crop_size = (513, 513)
  config.transform.photometric = 0.0  # P0 has none
  config.loader.threads = 8
  config.loader.eval_batch_size = 1  # images of many sizes, some of several megapixels
  # The published network as `errseg convert` describes it; that of segmenter.init takes its place.
  config.segmenter.backbone = {"name": "xception", "depth": 65, "output_stride": 16}
  config.segmenter.head = {
    "name": "deeplabv3plus",
    "pooling_bn": True,
    "pooling_first": True,
    "align_corners": True,
  }
  config.segmenter.mean = (127.5, 127.5, 127.5)
  config.segmenter.std = (127.5, 127.5, 127.5)
  config.segmenter.size_remainder = 1  # as 513x513
  config.detail_branch.features = (192, 128, 96)  # about the 11.6 MB that P0 gives
  # P0 gives neither learning rate nor batch size.
  config.stages.error = stage(60_000, 1e-3)
  config.stages.detail = stage(90_000, 1e-3)
  config = given_network(config)
  if arg == "paper":
    config = paper(config)
  elif arg == "runlocal":
    config = runlocal(config)
    config.segmenter.backbone.update(depth=41, multiplier=1 / 32)
    config.segmenter.head.update(features=16, low_features=8, separable=False)
  elif arg:
    raise UserError(f"unknown argument {arg!r} of this config; known: paper, runlocal")
  return config
