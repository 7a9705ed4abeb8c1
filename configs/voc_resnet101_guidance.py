"""PASCAL VOC 2012: ResNet-101 guided by image classification, and the CRF that it guides (P3; Shen and Zeng 2018).

    C=configs/voc_resnet101_guidance.py
    errseg train --config=$C --config.data.root=$VOC --workdir=W
    errseg tune --workdir=W && errseg evaluate --workdir=W
    errseg ablate --config=$C --config.data.root=$VOC --workdir=A --rows=guidance  # the tables of the paper

$VOC is a folder with images/train, labels/train, images/val, labels/val of the 10582 and 1449 images;
palette PNGs are read by their indices. Published, val, six views: mIoU 76.35, guided 77.71, with the CRF 78.12,
learned combination 81.32 (Table 3), after pre-training on COCO and fine-tuning on the 1464 images of the original
split. Neither is here yet: a backbone of other weights by --config.segmenter.backbone_weights.
Ours: times and scores not measured. `:runlocal` rehearses every step with a small network on a few images.
"""

from errseg_jax.config import default_config, runlocal, stage
from errseg_jax.data.class_names import VOC
from errseg_jax.errors import UserError

STEPS = 30_000  # about 45 epochs; the paper does not say how many


def get_config(arg=None):
  config = default_config()
  config.data = {"name": "folders", "root": "", "class_names": VOC}
  config.transform.crop_size = (512, 512)
  config.transform.rotation, config.transform.photometric = 0.0, 0.0
  config.loader.threads = 8
  config.loader.eval_batch_size = 1
  # Statistics over 8 of 16 images were best (section 4.1).
  config.segmenter.backbone = {"name": "resnet", "depth": 101, "output_stride": 16, "bn_group_size": 8}
  config.segmenter.head = {"name": "local", "dilation": 6}
  config.order = ("guided",)
  sgd = {"name": "sgd", "momentum": 0.9, "weight_decay": 1e-4, "power": 0.9, "clip_norm": 0.0}
  for name in ("semantic", "guided", "guidance", "control"):
    config.stages[name] = stage(STEPS, 1e-2, batch_size=16)
    config.stages[name].optimizer.update(sgd)
  config.views.update(scales=(1.2, 1.0, 0.8), mirror=True, combine="learned")
  config.crf.iterations = 5
  if arg == "runlocal":
    config = runlocal(config)
    config.order = ("guided",)
    config.segmenter.backbone.update(depth=18, width=8, bn_group_size=0)
    config.segmenter.head.features = 16
  elif arg:
    raise UserError(f"unknown argument {arg!r} of this config; known: runlocal")
  return config
