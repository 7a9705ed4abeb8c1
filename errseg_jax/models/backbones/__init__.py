"""Backbones: image -> feature maps.

Every backbone is a linen module `backbone(x, train) -> Endpoints`: `low` holds its maps finest first with
their `strides`, `final` is the last map at `output_stride`. For a 512x512 image ResNet-50 at output stride 16
gives low = ([B,256,256,64], [B,128,128,256], [B,64,64,512]), strides (2, 4, 8), final [B,32,32,2048].
A new backbone is a file, a line in BACKBONES, and a test that calls `tests/models/test_backbones.py`'s checker.
"""

from typing import Any

from errseg_jax.models.backbones.endpoints import Endpoints
from errseg_jax.models.backbones.mobilenetv2 import MobileNetV2
from errseg_jax.models.backbones.resnet import ResNet
from errseg_jax.models.backbones.squeezenet import SqueezeNet
from errseg_jax.models.backbones.vgg import VGG
from errseg_jax.models.backbones.wide_resnet import WideResNet
from errseg_jax.models.backbones.xception import Xception

BACKBONES: dict[str, Any] = {
  "mobilenetv2": MobileNetV2,
  "resnet": ResNet,
  "squeezenet": SqueezeNet,
  "vgg": VGG,
  "wide_resnet": WideResNet,
  "xception": Xception,
}

__all__ = ["BACKBONES", "VGG", "Endpoints", "MobileNetV2", "ResNet", "SqueezeNet", "WideResNet", "Xception"]
