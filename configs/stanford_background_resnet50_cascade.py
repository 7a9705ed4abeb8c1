"""Stanford Background (715 images, 8 classes, about 320x240): ResNet-50 with coarse, attention, refine branches (P2).

    C=configs/stanford_background_resnet50_cascade.py
    errseg train --config=$C --config.data.root=$STANFORD --config.segmenter.backbone_weights=B --workdir=W
    errseg evaluate --workdir=W

Five folds, 572 images to train and 143 to test; --config.data.fold=0 to 4. Wang et al. 2017: dilated ResNet-50,
output stride 8, all branches end to end. B is the workdir of a converted ResNet-50 (docs/convert.md); without it the
network starts from nothing. The paper says nothing of steps, rates or crops: these are ours. Published: pixel
accuracy 89.7, without an experiment section; other networks have 80 to 87. Ours: times and scores not measured.
`:runlocal` rehearses every step with a small network on a few images.
"""

from errseg_jax.config import cascade, default_config, runlocal, stage
from errseg_jax.errors import UserError

STEPS = 6_000  # 186 epochs of the images that are not held out, 16 at a time


def get_config(arg=None):
  config = default_config()
  config.data = {"name": "stanford_background", "root": "", "task": "regions", "fold": 0}
  config.splits.runs = 0  # photographs, not frames of a video
  config.splits.val = "test"
  config.transform.crop_size = (225, 289)
  config.loader.threads = 8
  config.segmenter.backbone = {"name": "resnet", "depth": 50, "output_stride": 8}
  config = cascade(config)
  # The pretrained backbone wants smaller steps than the branches.
  sgd = {"name": "sgd", "weight_decay": 5e-4, "clip_norm": 0.0, "multipliers": {"segmenter/backbone": 0.1}}
  config.stages.cascade = stage(STEPS, 1e-2, batch_size=16, eval_every=1000, **sgd)
  if arg == "runlocal":
    config = runlocal(config)
    config.segmenter.backbone.update(depth=18, width=8)
  elif arg:
    raise UserError(f"unknown argument {arg!r} of this config; known: runlocal")
  return config
