"""Where the published VGG-16s' arrays go."""

from __future__ import annotations

from errseg_jax.models.backbones.vgg import STAGES
from errseg_jax.models.rules import Rule, prefixed, torch_bn, torch_conv

# The classifier of a network trained on ImageNet.
CLASSIFIER = (r"classifier\.\d\.(weight|bias)",)
NAMES = tuple(
  f"conv{stage}_{i}" for stage, (_, count) in enumerate(STAGES, start=1) for i in range(1, count + 1)
)


def torchvision(prefix: str = "", batch_norm: bool = False) -> tuple[Rule, ...]:
  """torchvision's vgg16, or vgg16_bn with `batch_norm`; segmentation-models-pytorch with the prefix "encoder."."""
  rules: list[Rule] = []
  index = 0
  for name in NAMES:
    rules += torch_conv(rf"features\.{index}", name, bias=True)
    if batch_norm:
      rules += torch_bn(rf"features\.{index + 1}", f"{name}_bn")
    # Convolution, normalisation, ReLU, and a pool after the last of a stage.
    index += 2 + batch_norm + (name in ("conv1_2", "conv2_2", "conv3_3", "conv4_3"))
  rules += torch_conv(r"classifier\.0", "fc6", bias=True, layout="dense_conv7")
  rules += torch_conv(r"classifier\.3", "fc7", bias=True, layout="dense_conv")
  return prefixed(rules, prefix)


def keras(prefix: str = "") -> tuple[Rule, ...]:
  """Keras applications without its top, names as LAYER/KIND ("block1_conv1/kernel")."""
  pairs = ((f"block{n[4]}_conv{n[6]}", n) for n in NAMES)
  rules = [Rule(f"{b}/{kind}", f"{n}/conv/{kind}") for b, n in pairs for kind in ("kernel", "bias")]
  return prefixed(rules, prefix)
