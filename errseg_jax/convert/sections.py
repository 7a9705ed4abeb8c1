"""Config sections of backbones and heads, read off the names and shapes of published arrays.

Each function takes {published name: array} and raises KeyError with the name of an array that should be there.
"""

from __future__ import annotations

import re
from typing import Any

from errseg_jax.convert.formats import Arrays
from errseg_jax.models.backbones.resnet import BLOCKS
from errseg_jax.models.heads import (
  deeplabv3_rules,
  deeplabv3plus_rules,
  dpc_rules,
  fcn_rules,
  largefov_rules,
  pan_rules,
  pspnet_rules,
)

Section = dict[str, Any]
"""The name and the fields of a backbone or head."""


def outputs(arrays: Arrays, name: str, axis: int = 0) -> int:
  """Channels that a layer gives; those of PyTorch are on axis 0, those of TensorFlow on the last."""
  if not arrays[name].ndim:
    raise KeyError(name)
  return arrays[name].shape[axis]


def named(arrays: Arrays, pattern: str) -> str:
  """The first name that a regular expression matches whole."""
  for name in arrays:
    if re.fullmatch(pattern, name):
      return name
  raise KeyError(pattern.replace("\\", ""))


def auxiliary(arrays: Arrays, name: str) -> int:
  """Channels of an auxiliary head, 0 where the file has none."""
  return outputs(arrays, name) if name in arrays else 0


def resnet(arrays: Arrays, prefix: str = "", **fields: Any) -> Section:
  """A ResNet: depth and width from its arrays, the other fields as given."""
  width = outputs(arrays, f"{prefix}layer1.0.conv1.weight")
  found = [re.match(rf"{re.escape(prefix)}layer([1-4])\.(\d+)\.", name) for name in arrays]
  pairs = {(int(m[1]), int(m[2])) for m in found if m}
  counts = tuple(sum(stage == n for stage, _ in pairs) for n in (1, 2, 3, 4))
  bottleneck = f"{prefix}layer1.0.conv3.weight" in arrays
  for depth, blocks in BLOCKS.items():
    if blocks == counts and bottleneck == (depth >= 50):
      return {"name": "resnet", "depth": depth, "width": width, **fields}
  raise KeyError(f"{prefix}layer4 of a known ResNet")


def mmseg_resnet(arrays: Arrays) -> Section:
  """mmsegmentation's ResNet at output stride 8: V1, V1c by its stem, V1d by its shortcuts."""
  fields: Section = {"stem": "mmseg" if "backbone.stem.0.weight" in arrays else "plain"}
  if "backbone.layer1.0.downsample.2.weight" in arrays:
    fields["average_shortcut"] = True
  return resnet(arrays, "backbone.", **fields, output_stride=8, dilate_conv2=False)


def mobilenetv2(arrays: Arrays, first: str = "features.0.0.weight", **fields: Any) -> Section:
  """A MobileNetV2, recognised by its first convolution."""
  outputs(arrays, first)
  return {"name": "mobilenetv2", **fields}


def smp_encoder(arrays: Arrays, output_stride: int) -> Section:
  """A ResNet or MobileNetV2 of segmentation-models-pytorch."""
  fields = {"output_stride": output_stride, "first_dilation": "stage"}
  if "encoder.features.0.0.weight" in arrays:
    return mobilenetv2(arrays, "encoder.features.0.0.weight", **fields)
  return resnet(arrays, "encoder.", **fields)


def squeezenet(arrays: Arrays, first: str = "features.3.squeeze.weight") -> Section:
  """SqueezeNet 1.1, recognised by its first squeezing convolution."""
  outputs(arrays, first)
  return {"name": "squeezenet"}


def vgg(arrays: Arrays, first: str = "features.0.weight") -> Section:
  """A VGG-16, with batch normalisation where it has statistics."""
  outputs(arrays, first)
  return {"name": "vgg", "batch_norm": "features.1.running_mean" in arrays}


def wide_resnet(arrays: Arrays) -> Section:
  """ademxapp's Wide ResNet-38, model A1."""
  return {
    "name": "wide_resnet",
    "variant": "a1",
    "multiplier": outputs(arrays, named(arrays, "(?:arg:)?conv1a_weight")) / 64,
  }


def ademxapp_fcn(arrays: Arrays) -> Section:
  """ademxapp's two dilated convolutions on Wide ResNet-38."""
  features = outputs(arrays, named(arrays, r"(?:arg:)?conv6a_weight"))
  return {**largefov_rules.FIELDS["ademxapp"], "name": "largefov", "hidden_features": features}


def xception(arrays: Arrays) -> Section:
  """TF DeepLab's Xception; the depth is part of the names."""
  depth = next((d for d in (41, 65, 71) if any(n.startswith(f"xception_{d}/") for n in arrays)), 65)
  width = outputs(arrays, f"xception_{depth}/entry_flow/conv1_1/weights", -1)
  return {"name": "xception", "depth": depth, "multiplier": width / 32}


def torchvision_deeplabv3(arrays: Arrays) -> Section:
  """torchvision's DeepLabv3, with or without its auxiliary head."""
  return {
    **deeplabv3_rules.FIELDS["torchvision"],
    "name": "deeplabv3",
    "features": outputs(arrays, "classifier.0.project.0.weight"),
    "auxiliary_features": auxiliary(arrays, "aux_classifier.0.weight"),
  }


def torchvision_fcn(arrays: Arrays) -> Section:
  """torchvision's FCN, with or without its auxiliary head."""
  return {
    **fcn_rules.FIELDS["torchvision"],
    "name": "fcn",
    "features": outputs(arrays, "classifier.0.weight"),
    "auxiliary_features": auxiliary(arrays, "aux_classifier.0.weight"),
  }


def smp_deeplabv3(arrays: Arrays) -> Section:
  """segmentation-models-pytorch's DeepLabv3, dense or separable."""
  aspp = (
    "decoder.aspp" if "decoder.aspp.project.0.weight" in arrays else "decoder.0"
  )  # older versions number it
  return {
    **deeplabv3_rules.FIELDS["smp"],
    "name": "deeplabv3",
    "features": outputs(arrays, f"{aspp}.project.0.weight"),
    "separable": f"{aspp}.convs.1.0.0.weight" in arrays,
  }


def smp_deeplabv3plus(arrays: Arrays) -> Section:
  """segmentation-models-pytorch's DeepLabv3+."""
  return {
    **deeplabv3plus_rules.FIELDS["smp"],
    "name": "deeplabv3plus",
    "features": outputs(arrays, "decoder.aspp.0.project.0.weight"),
    "low_features": outputs(arrays, "decoder.block1.0.weight"),
  }


def smp_pspnet(arrays: Arrays) -> Section:
  """segmentation-models-pytorch's PSPNet."""
  features = outputs(arrays, "decoder.conv.0.weight")
  return {**pspnet_rules.FIELDS["smp"], "name": "pspnet", "features": features}


def smp_pan(arrays: Arrays) -> Section:
  """segmentation-models-pytorch's PAN."""
  features = outputs(arrays, "decoder.fpa.mid.0.conv.weight")
  return {**pan_rules.FIELDS["smp"], "name": "pan", "features": features}


def semseg_pspnet(arrays: Arrays) -> Section:
  """semseg's PSPNet."""
  return {
    **pspnet_rules.FIELDS["semseg"],
    "name": "pspnet",
    "features": outputs(arrays, "cls.0.weight"),
    "auxiliary_features": auxiliary(arrays, "aux.0.weight"),
  }


MMSEG_AUXILIARY = "auxiliary_head.convs.0.conv.weight"


def mmseg_pspnet(arrays: Arrays) -> Section:
  """mmsegmentation's PSPNet."""
  return {
    **pspnet_rules.FIELDS["mmseg"],
    "name": "pspnet",
    "features": outputs(arrays, "decode_head.bottleneck.conv.weight"),
    "bin_features": outputs(arrays, "decode_head.psp_modules.0.1.conv.weight"),
    "auxiliary_features": auxiliary(arrays, MMSEG_AUXILIARY),
  }


def mmseg_fcn(arrays: Arrays) -> Section:
  """mmsegmentation's FCN."""
  return {
    **fcn_rules.FIELDS["mmseg"],
    "name": "fcn",
    "features": outputs(arrays, "decode_head.conv_cat.conv.weight"),
    "auxiliary_features": auxiliary(arrays, MMSEG_AUXILIARY),
  }


def mmseg_deeplabv3plus(arrays: Arrays) -> Section:
  """mmsegmentation's DeepLabv3+."""
  return {
    **deeplabv3plus_rules.FIELDS["mmseg"],
    "name": "deeplabv3plus",
    "features": outputs(arrays, "decode_head.bottleneck.conv.weight"),
    "low_features": outputs(arrays, "decode_head.c1_bottleneck.conv.weight"),
    "auxiliary_features": auxiliary(arrays, MMSEG_AUXILIARY),
  }


def _tf_decoder(arrays: Arrays, projection: str) -> Section:
  return {
    "features": outputs(arrays, projection, -1),
    "low_features": outputs(arrays, "decoder/feature_projection0/weights", -1),
  }


def tf_deeplabv3plus(arrays: Arrays) -> Section:
  """TF DeepLab's DeepLabv3+: ASPP and decoder."""
  fields = {**deeplabv3plus_rules.FIELDS["tf"], "name": "deeplabv3plus"}
  return {**fields, **_tf_decoder(arrays, "concat_projection/weights")}


def tf_dpc(arrays: Arrays) -> Section:
  """TF DeepLab's dense prediction cell, the published one, with the decoder."""
  fields = {**dpc_rules.FIELDS["tf"], "name": "dpc"}
  return {**fields, **_tf_decoder(arrays, "meta_architecture/concat_projection/weights")}


def tf_deeplabv3(arrays: Arrays) -> Section:
  """TF DeepLab's head on MobileNetV2: image pooling and a 1x1 convolution, without decoder."""
  features = outputs(arrays, "concat_projection/weights", -1)
  return {**deeplabv3_rules.FIELDS["tf_mobilenetv2"], "name": "deeplabv3", "features": features}
