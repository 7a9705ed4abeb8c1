"""SIFT Flow (2486 train, 200 test, 33 classes, 256x256): ResNet-50 with coarse, attention and refine branches (P2).

    C=configs/sift_flow_resnet50_cascade.py
    errseg train --config=$C --config.data.root=$SIFT_FLOW --config.segmenter.backbone_weights=B --workdir=W
    errseg evaluate --workdir=W

Wang et al. 2017: dilated ResNet-50, output stride 8, all branches end to end. B is the workdir of a converted
ResNet-50 (docs/convert.md); without it the network starts from nothing. `:geometric` labels sky, vertical and
horizontal. The paper says nothing of steps, rates or crops: these are ours. Published: pixel accuracy 91.6, without
an experiment section; other networks have 84 to 87. Ours: times and scores not measured.
`:runlocal` rehearses every step with a small network on a few images.
"""

from errseg_jax.config import cascade, default_config, runlocal, stage
from errseg_jax.errors import UserError

STEPS = 20_000  # 143 epochs of the images that are not held out, 16 at a time


def get_config(arg=None):
  config = default_config()
  config.data = {"name": "sift_flow", "root": "", "task": "semantic"}
  config.splits.runs = 0  # photographs, not frames of a video
  config.splits.val = "test"
  config.transform.crop_size = (241, 241)
  config.loader.threads = 8
  config.segmenter.backbone = {"name": "resnet", "depth": 50, "output_stride": 8}
  config = cascade(config)
  # The pretrained backbone wants smaller steps than the branches.
  sgd = {"name": "sgd", "weight_decay": 5e-4, "clip_norm": 0.0, "multipliers": {"segmenter/backbone": 0.1}}
  config.stages.cascade = stage(STEPS, 1e-2, batch_size=16, eval_every=2000, **sgd)
  if arg == "geometric":
    config.data.task = "geometric"
  elif arg == "runlocal":
    config = runlocal(config)
    config.segmenter.backbone.update(depth=18, width=8)
  elif arg:
    raise UserError(f"unknown argument {arg!r} of this config; known: geometric, runlocal")
  return config
