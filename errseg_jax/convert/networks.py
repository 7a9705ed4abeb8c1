"""The published networks that `errseg convert --from=NAME` knows."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from errseg_jax.convert.formats import Arrays
from errseg_jax.models.backbones import mobilenetv2_rules, resnet_rules, vgg_rules, wide_resnet_rules
from errseg_jax.models.backbones.resnet import BLOCKS
from errseg_jax.models.rules import TORCH_IGNORED, Rule

Section = dict[str, Any]
"""A section of a config: the name and the fields of a backbone or head."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """What the published network does to an image; its padding has the colour of the mean.

  Attributes:
    mean: per channel in RGB order, 0..255.
    std: see mean.
    channels: "rgb" or "bgr", the order that the weights expect.
  """

  mean: tuple[float, float, float]
  std: tuple[float, float, float]
  channels: str = "rgb"


IMAGENET = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
CAFFE = Preprocessing((123.68, 116.779, 103.939), (1.0, 1.0, 1.0), "bgr")
HALVES = Preprocessing((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))


@dataclasses.dataclass(frozen=True)
class Network:
  """How to build and fill ours from the arrays of a published file.

  Attributes:
    backbone: arrays -> config section; a KeyError names an array that should be there.
    backbone_rules: section -> rules with paths below the backbone.
    head: as `backbone`; None for a backbone alone.
    head_rules: as `backbone_rules`.
    classifier: name of the array that has one number per class.
    ignore: regular expressions of names that have no place here.
    preprocessing: of the images.
  """

  backbone: Callable[[Arrays], Section]
  backbone_rules: Callable[[Section], tuple[Rule, ...]]
  head: Callable[[Arrays], Section] | None = None
  head_rules: Callable[[Section], tuple[Rule, ...]] | None = None
  classifier: str = ""
  ignore: tuple[str, ...] = TORCH_IGNORED
  preprocessing: Preprocessing = IMAGENET


def resnet(arrays: Arrays, prefix: str = "", **fields: Any) -> Section:
  """A ResNet's section: depth and width from its arrays, the other fields as given.

  Raises:
    KeyError: the arrays are not those of a ResNet of known depth.
  """
  name = f"{prefix}layer1.0.conv1.weight"
  width = len(arrays[name])
  numbers = [re.match(rf"{re.escape(prefix)}layer([1-4])\.(\d+)\.", key) for key in arrays]
  counts = dict.fromkeys("1234", 0)
  for found in filter(None, numbers):
    counts[found[1]] = max(counts[found[1]], int(found[2]) + 1)
  bottleneck = f"{prefix}layer1.0.conv3.weight" in arrays
  for depth, blocks in BLOCKS.items():
    if blocks == tuple(counts.values()) and bottleneck == (depth >= 50):
      return {"name": "resnet", "depth": depth, "width": width, **fields}
  raise KeyError(f"{prefix}layer1..4 of a known ResNet")


def mobilenetv2(arrays: Arrays, name: str = "features.0.0.weight", **fields: Any) -> Section:
  """A MobileNetV2's section, from the name of its first convolution.

  Raises:
    KeyError: it is not there.
  """
  arrays[name]
  return {"name": "mobilenetv2", **fields}


def vgg(arrays: Arrays, name: str = "features.0.weight") -> Section:
  """A VGG-16's section; whether it has batch normalisation is read from its arrays.

  Raises:
    KeyError: its first convolution is not there.
  """
  arrays[name]
  return {"name": "vgg", "batch_norm": "features.1.running_mean" in arrays}


def wide_resnet(arrays: Arrays) -> Section:
  """A Wide ResNet-38's section; its width is read from the first convolution.

  Raises:
    KeyError: it is not there.
  """
  return {"name": "wide_resnet", "variant": "a1", "multiplier": len(arrays["conv1a_weight"]) / 64}


NETWORKS: dict[str, Network] = {
  "torchvision_resnet": Network(
    backbone=resnet,
    backbone_rules=lambda section: resnet_rules.torchvision(),
    ignore=(*TORCH_IGNORED, *resnet_rules.CLASSIFIER),
  ),
  "torchvision_vgg": Network(
    backbone=vgg,
    backbone_rules=lambda section: vgg_rules.torchvision(batch_norm=section["batch_norm"]),
    ignore=(*TORCH_IGNORED, *vgg_rules.CLASSIFIER),
  ),
  "torchvision_mobilenet": Network(
    backbone=mobilenetv2,
    backbone_rules=lambda section: mobilenetv2_rules.torchvision(),
    ignore=(*TORCH_IGNORED, *mobilenetv2_rules.CLASSIFIER),
  ),
  "ademxapp_wide_resnet38": Network(
    backbone=wide_resnet,
    backbone_rules=lambda section: wide_resnet_rules.mxnet(),
    ignore=(r"(arg:)?linear\d+_(weight|bias)",),
  ),
  "keras_vgg": Network(
    backbone=lambda arrays: vgg(arrays, "block1_conv1/kernel"),
    backbone_rules=lambda section: vgg_rules.keras(),
    ignore=(r"(fc1|fc2|predictions)/.*",),
    preprocessing=CAFFE,
  ),
  "keras_mobilenetv2": Network(
    backbone=lambda arrays: mobilenetv2(arrays, "Conv1/kernel", bn_epsilon=1e-3),
    backbone_rules=lambda section: mobilenetv2_rules.keras(),
    ignore=(r"(Logits|predictions)/.*",),
    preprocessing=HALVES,
  ),
}
