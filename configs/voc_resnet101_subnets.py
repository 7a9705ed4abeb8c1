"""PASCAL VOC 2012: ResNet-101 with a subnet for classes confused with the background, and the loss that names it (P1).

    C=configs/voc_resnet101_subnets.py
    errseg train --config=$C --config.data.root=$VOC --workdir=W  # subnet by the new loss
    errseg evaluate --workdir=W
    errseg ablate --config=$C --config.data.root=$VOC --workdir=A --rows=confusion  # the cells of the table

$VOC is VOCdevkit/VOC2012 with SegmentationClassAug (docs/data_sets.md). The group is as published (Fig. 7).
Published, val: mIoU 75.43 base, 76.51 subnet, 76.91 with the loss too (Table 5).
Ours: times and scores not measured. `:runlocal` rehearses every step with a small network on a few images.
"""

from errseg_jax.config import default_config, runlocal, stage
from errseg_jax.data.class_groups import PUBLISHED
from errseg_jax.errors import UserError

STEPS = 105_800  # 80 epochs of 10582 images, 8 at a time; the paper does not say how many


def get_config(arg=None):
  config = default_config()
  config.data = {"name": "voc", "root": ""}
  config.splits.runs = 0  # photographs, not frames of a video
  config.splits.train = "trainaug"
  config.transform.crop_size = (513, 513)
  config.transform.rotation, config.transform.photometric = 0.0, 0.0  # the paper has crops and mirroring
  config.loader.threads = 8
  config.loader.eval_batch_size = 1
  config.segmenter.backbone = {"name": "resnet", "depth": 101, "output_stride": 8}
  config.segmenter.head = {"name": "fcn", "features": 512}
  config.groups.named = PUBLISHED["voc"]
  config.subnets.features, config.subnets.strides = 512, ()  # on the network's last features alone
  config.subnets.rule, config.subnets_loss.jaccard = "product", 0.0
  config.subnets_loss.pixel = {"name": "confusion"}
  config.order = ("semantic", "subnets")
  sgd = {"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4, "power": 1.0, "clip_norm": 0.0}
  for name in ("semantic", "finetune", "subnets", "control"):
    config.stages[name] = stage(STEPS, 2e-3)
    config.stages[name].optimizer.update(sgd)
  if arg == "runlocal":
    config = runlocal(config)
    config.segmenter.backbone.update(depth=18, width=8)
    config.segmenter.head.features = 16
  elif arg:
    raise UserError(f"unknown argument {arg!r} of this config; known: runlocal")
  return config
