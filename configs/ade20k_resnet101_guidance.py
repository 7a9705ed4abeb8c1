"""ADE20K: ResNet-101 guided by image classification, and the CRF that it guides (P3; Shen and Zeng 2018).

    C=configs/ade20k_resnet101_guidance.py
    errseg train --config=$C --config.data.root=$ADE20K --workdir=W
    errseg tune --workdir=W && errseg evaluate --workdir=W
    errseg ablate --config=$C --config.data.root=$ADE20K --workdir=A --rows=guidance  # the tables of the paper

$ADE20K: the folder ADEChallengeData2016 (docs/experiments.md).
Published, test, several scales: 35.5, of what the paper does not say (Table 4).
Ours: times and scores not measured. `:runlocal` rehearses every step with a small network on a few images.
"""

from errseg_jax.config import default_config, guided_resnet101, runlocal
from errseg_jax.errors import UserError

STEPS = 100_000  # about 80 epochs; the paper does not say how many


def get_config(arg=None):
  config = default_config()
  config.data = {"name": "ade20k", "root": ""}
  config.splits.runs = 0  # photographs, not frames of a video
  config.loader.threads = 8
  config.loader.eval_batch_size = 1
  config = guided_resnet101(config, STEPS)
  if arg == "runlocal":
    config = runlocal(config)
    config.order = ("guided",)
    config.segmenter.backbone.update(depth=18, width=8, bn_group_size=0)
    config.segmenter.head.features = 16
  elif arg:
    raise UserError(f"unknown argument {arg!r} of this config; known: runlocal")
  return config
