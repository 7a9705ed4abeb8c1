"""PASCAL VOC 2012: ResNet-101 guided by image classification, and the CRF that it guides (P3; Shen and Zeng 2018).

    C=configs/voc_resnet101_guidance.py
    errseg train --config=$C:coco  --config.data.root=$COCO --workdir=W0                                # pre-training
    errseg train --config=$C       --config.data.root=$VOC  --config.segmenter.init=W0 --workdir=W1     # trainaug
    errseg train --config=$C:train --config.data.root=$VOC  --config.segmenter.init=W1 --workdir=W2     # original train
    errseg tune --workdir=W1 && errseg evaluate --workdir=W1 && errseg evaluate --workdir=W2
    errseg ablate --config=$C --config.data.root=$VOC --workdir=A --rows=guidance  # the tables of the paper

$COCO and $VOC (VOCdevkit/VOC2012) are laid out as docs/data_sets.md says. Each run goes on from network and guidance of
the one before; COCO is labelled with the classes of VOC. W1 has seen all of train, so W2 has no unseen images to tune
on: it takes the mean of the views and no CRF. Published, val, six views: mIoU 76.35, guided 77.71, with the
CRF 78.12, learned combination 81.32 (Table 3).
Ours: times and scores not measured. `:runlocal` rehearses every step with a small network on a few images.
"""

from errseg_jax.config import default_config, guided_resnet101, runlocal
from errseg_jax.errors import UserError

TRAINAUG_STEPS = 30_000  # about 45 epochs; the paper does not say how many
COCO_STEPS = 150_000  # about 20
TRAIN_STEPS = 4000  # about 45


def get_config(arg=None):
  config = default_config()
  config.data = {"name": "voc", "root": ""}
  config.splits.runs = 0  # photographs, not frames of a video
  config.splits.train = "trainaug"
  config.loader.threads = 8
  config.loader.eval_batch_size = 1
  config = guided_resnet101(config, TRAINAUG_STEPS)
  if arg == "coco":
    config.data = {"name": "coco", "root": "", "classes": "voc"}
    config.splits.update(train="train2017", val="val2017", choose_fraction=0.01)
    config.stages.guided.steps = COCO_STEPS
  elif arg == "train":
    config.splits.train, config.splits.choose = (
      "train",
      config.splits.val,
    )  # the rest of trainaug was seen before
    config.train.select = "last"
    config.views.combine, config.crf.iterations = "mean", 0
    config.stages.guided.steps = TRAIN_STEPS
    config.stages.guided.optimizer.learning_rate = 1e-3  # ours: the paper does not say
  elif arg == "runlocal":
    config = runlocal(config)
    config.order = ("guided",)
    config.segmenter.backbone.update(depth=18, width=8, bn_group_size=0)
    config.segmenter.head.features = 16
  elif arg:
    raise UserError(f"unknown argument {arg!r} of this config; known: coco, train, runlocal")
  return config
