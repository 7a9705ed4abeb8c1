"""PASCAL VOC 2012: VGG-16 LargeFOV guided by image classification, and the CRF that it guides (P3).

    C=configs/voc_vgg16_guidance.py
    errseg train --config=$C --config.data.root=$VOC --config.segmenter.backbone_weights=vgg16.npz --workdir=W
    errseg tune --workdir=W && errseg evaluate --workdir=W

$VOC as in voc_resnet101_guidance.py; vgg16.npz from `errseg convert` (docs/convert.md). The paper's fully connected
layers come from a detector; ours start at random. Published, val, six views: mIoU 72.54, guided 74.13, with the CRF
75.89, learned combination 75.99, with the true classes known 79.58 (Table 3).
Ours: times and scores not measured. `:runlocal` rehearses every step with small layers on a few images.
"""

from errseg_jax.config import default_config, runlocal, stage
from errseg_jax.errors import UserError

STEPS = 160_000  # one image at a time, 15 epochs; the paper does not say how many


def get_config(arg=None):
  config = default_config()
  config.data = {"name": "voc", "root": ""}
  config.splits.runs = 0  # photographs, not frames of a video
  config.splits.train = "trainaug"
  config.transform.crop_size = (512, 512)
  config.transform.rotation, config.transform.photometric = 0.0, 0.0
  config.loader.eval_batch_size = 1
  config.segmenter.backbone = {"name": "vgg", "output_stride": 8}
  config.segmenter.head = {"name": "local", "dilation": 12}
  config.order = ("guided",)
  sgd = {"name": "sgd", "momentum": 0.99, "weight_decay": 5e-4, "power": 0.9, "clip_norm": 0.0}
  for name in ("semantic", "guided", "guidance", "control"):
    config.stages[name] = stage(STEPS, 1e-5, batch_size=1)
    config.stages[name].optimizer.update(sgd)
  config.views.update(scales=(1.2, 1.0, 0.8), mirror=True, combine="learned")
  config.crf.iterations = 5
  if arg == "runlocal":
    config = runlocal(config)
    config.order = ("guided",)
    config.segmenter.head.features = 16
  elif arg:
    raise UserError(f"unknown argument {arg!r} of this config; known: runlocal")
  return config
