"""Cityscapes: ResNet-101 with subnets for confused classes and the loss that names the confusion (P1).

    C=configs/cityscapes_resnet101_subnets.py
    errseg train --config=$C --config.data.root=$CITYSCAPES --workdir=W  # subnets by the new loss
    errseg evaluate --workdir=W
    errseg ablate --config=$C --config.data.root=$CITYSCAPES --workdir=A --rows=confusion  # the cells of the table

The network is trained by cross-entropy. Groups as published (Table 1). Published, val:
mIoU 74.70 base, 75.55 subnets, 76.21 loss, 77.75 both (Table 3).
Ours: times and scores not measured. `:runlocal` rehearses every step with a small network on a few images.
"""

from errseg_jax.config import default_config, runlocal, stage
from errseg_jax.data.class_groups import PUBLISHED
from errseg_jax.errors import UserError

STEPS = 37_200  # 100 epochs of 2975 images, 8 at a time; the paper does not say how many


def get_config(arg=None):
  config = default_config()
  config.data = {"name": "cityscapes", "root": ""}
  config.transform.crop_size = (713, 713)
  config.transform.rotation, config.transform.photometric = 0.0, 0.0  # the paper has crops and mirroring
  config.loader.threads = 8
  config.loader.eval_batch_size = 1
  config.segmenter.backbone = {"name": "resnet", "depth": 101, "output_stride": 8}
  config.segmenter.head = {"name": "fcn", "features": 512}
  config.groups.named = PUBLISHED["cityscapes"]
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
