"""The published networks that `errseg convert --from=NAME` knows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

from errseg_jax.convert import sections
from errseg_jax.convert.formats import Arrays
from errseg_jax.convert.sections import Section
from errseg_jax.models.backbones import (
  mobilenetv2_rules,
  resnet_rules,
  squeezenet_rules,
  vgg_rules,
  wide_resnet_rules,
  xception_rules,
)
from errseg_jax.models.heads import (
  deeplabv3_rules,
  deeplabv3plus_rules,
  dpc_rules,
  fcn_rules,
  largefov_rules,
  pan_rules,
  pspnet_rules,
)
from errseg_jax.models.rules import TORCH_IGNORED, Rule


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """What the published network does to an image; its padding has the colour of the mean.

  Attributes:
    mean: per channel in RGB order, 0..255.
    std: see mean.
    channels: "rgb" or "bgr", the order that the weights expect.
    size_remainder: sizes are padded to multiples plus this: 1 for networks of 513, 769 or 1025 pixels.
  """

  mean: tuple[float, float, float]
  std: tuple[float, float, float]
  channels: str = "rgb"
  size_remainder: int = 0


IMAGENET = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
CAFFE = Preprocessing((123.68, 116.779, 103.939), (1.0, 1.0, 1.0), "bgr")
HALVES = Preprocessing((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))  # to -1..1


@dataclasses.dataclass(frozen=True)
class Network:
  """How to build and fill ours from the arrays of a published file.

  Attributes:
    backbone: arrays -> config section; a KeyError names an array that should be there.
    backbone_rules: section -> rules with paths below the backbone.
    head: as `backbone`; None for a backbone alone.
    head_rules: rules with paths below the head.
    classifier: regular expression of the name of the array that has one number per class.
    ignore: regular expressions of names that have no place here.
    preprocessing: of the images.
  """

  backbone: Callable[[Arrays], Section]
  backbone_rules: Callable[[Section], tuple[Rule, ...]]
  head: Callable[[Arrays], Section] | None = None
  head_rules: tuple[Rule, ...] = ()
  classifier: str = ""
  ignore: tuple[str, ...] = TORCH_IGNORED
  preprocessing: Preprocessing = IMAGENET


def _mmseg_rules(section: Section) -> tuple[Rule, ...]:
  if section["stem"] == "plain":
    return resnet_rules.torchvision("backbone.")
  return resnet_rules.mmseg("backbone.", section.get("average_shortcut", False))


def _smp_rules(section: Section) -> tuple[Rule, ...]:
  rules = mobilenetv2_rules if section["name"] == "mobilenetv2" else resnet_rules
  return rules.torchvision("encoder.")


TF_IGNORED = ("global_step", r"beta\d_power", ".*/(Momentum|RMSProp(_1)?|Adam(_1)?|ExponentialMovingAverage)")

# The first entries describe a library, `head` and `head_rules` one of its networks.
_torchvision = partial(
  Network,
  backbone=partial(sections.resnet, prefix="backbone.", output_stride=8),
  backbone_rules=lambda section: resnet_rules.torchvision("backbone."),
  classifier=r"classifier\.4\.bias",
)
_smp = partial(Network, backbone_rules=_smp_rules, classifier=r"segmentation_head\.0\.bias")
_mmseg = partial(
  Network,
  backbone=sections.mmseg_resnet,
  backbone_rules=_mmseg_rules,
  classifier=r"decode_head\.conv_seg\.bias",
)
_tf = partial(
  Network,
  backbone=sections.xception,
  backbone_rules=lambda section: xception_rules.tf(f"xception_{section['depth']}/"),
  classifier="logits/semantic/biases",
  ignore=TF_IGNORED,
  preprocessing=dataclasses.replace(HALVES, size_remainder=1),
)

NETWORKS: dict[str, Network] = {
  "torchvision_deeplabv3": _torchvision(
    head=sections.torchvision_deeplabv3, head_rules=deeplabv3_rules.torchvision()
  ),
  "torchvision_fcn": _torchvision(head=sections.torchvision_fcn, head_rules=fcn_rules.torchvision()),
  "smp_deeplabv3": _smp(
    backbone=partial(sections.smp_encoder, output_stride=8),
    head=sections.smp_deeplabv3,
    head_rules=deeplabv3_rules.smp(),
  ),
  "smp_deeplabv3plus": _smp(
    backbone=partial(sections.smp_encoder, output_stride=16),
    head=sections.smp_deeplabv3plus,
    head_rules=deeplabv3plus_rules.smp(),
  ),
  "smp_pspnet": _smp(
    backbone=partial(sections.smp_encoder, output_stride=32),
    head=sections.smp_pspnet,
    head_rules=pspnet_rules.smp(),
  ),
  "smp_pan": _smp(
    backbone=partial(sections.smp_encoder, output_stride=16),
    head=sections.smp_pan,
    head_rules=pan_rules.smp(),
  ),
  "semseg_pspnet": Network(
    backbone=partial(sections.resnet, stem="semseg", first_dilation="stage", output_stride=8),
    backbone_rules=lambda section: resnet_rules.semseg(),
    head=sections.semseg_pspnet,
    head_rules=pspnet_rules.semseg(),
    classifier=r"cls\.4\.bias",
    preprocessing=dataclasses.replace(IMAGENET, size_remainder=1),
  ),
  "mmseg_pspnet": _mmseg(head=sections.mmseg_pspnet, head_rules=pspnet_rules.mmseg()),
  "mmseg_fcn": _mmseg(head=sections.mmseg_fcn, head_rules=fcn_rules.mmseg()),
  "mmseg_deeplabv3plus": _mmseg(head=sections.mmseg_deeplabv3plus, head_rules=deeplabv3plus_rules.mmseg()),
  "tf_deeplabv3plus_xception": _tf(head=sections.tf_deeplabv3plus, head_rules=deeplabv3plus_rules.tf()),
  "tf_dpc_xception": _tf(head=sections.tf_dpc, head_rules=dpc_rules.tf()),
  "tf_deeplabv3_mobilenetv2": _tf(
    backbone=partial(
      sections.mobilenetv2, first="MobilenetV2/Conv/weights", bn_epsilon=1e-3, last_features=0
    ),
    backbone_rules=lambda section: mobilenetv2_rules.tf(),
    head=sections.tf_deeplabv3,
    head_rules=deeplabv3_rules.tf(),
  ),
  "tf_xception": Network(
    backbone=sections.xception,
    backbone_rules=lambda section: xception_rules.tf(f"xception_{section['depth']}/"),
    ignore=(*TF_IGNORED, r"xception_\d+/logits/(weights|biases)"),
    preprocessing=dataclasses.replace(HALVES, size_remainder=1),
  ),
  "torchvision_resnet": Network(
    backbone=sections.resnet,
    backbone_rules=lambda section: resnet_rules.torchvision(),
    ignore=(*TORCH_IGNORED, *resnet_rules.CLASSIFIER),
  ),
  "torchvision_vgg": Network(
    backbone=sections.vgg,
    backbone_rules=lambda section: vgg_rules.torchvision(batch_norm=section["batch_norm"]),
    ignore=(*TORCH_IGNORED, *vgg_rules.CLASSIFIER),
  ),
  "torchvision_mobilenet": Network(
    backbone=sections.mobilenetv2,
    backbone_rules=lambda section: mobilenetv2_rules.torchvision(),
    ignore=(*TORCH_IGNORED, *mobilenetv2_rules.CLASSIFIER),
  ),
  "torchvision_squeezenet": Network(
    backbone=sections.squeezenet,
    backbone_rules=lambda section: squeezenet_rules.torchvision(),
    ignore=squeezenet_rules.CLASSIFIER,
  ),
  "ademxapp_wide_resnet38": Network(
    backbone=sections.wide_resnet,
    backbone_rules=lambda section: wide_resnet_rules.mxnet(),
    ignore=(f"{largefov_rules.CLASSIFIER}_(weight|bias)",),
  ),
  "ademxapp_fcn": Network(
    backbone=sections.wide_resnet,
    backbone_rules=lambda section: wide_resnet_rules.mxnet(),
    head=sections.ademxapp_fcn,
    head_rules=largefov_rules.mxnet(),
    classifier=f"{largefov_rules.CLASSIFIER}_bias",
  ),
  "keras_squeezenet": Network(
    backbone=partial(sections.squeezenet, first="fire2/squeeze1x1/kernel"),
    backbone_rules=lambda section: squeezenet_rules.keras(),
    ignore=squeezenet_rules.CLASSIFIER,
    preprocessing=CAFFE,
  ),
  "keras_vgg": Network(
    backbone=partial(sections.vgg, first="block1_conv1/kernel"),
    backbone_rules=lambda section: vgg_rules.keras(),
    ignore=(r"(fc1|fc2|predictions)/.*",),
    preprocessing=CAFFE,
  ),
  "keras_mobilenetv2": Network(
    backbone=partial(sections.mobilenetv2, first="Conv1/kernel", bn_epsilon=1e-3),
    backbone_rules=lambda section: mobilenetv2_rules.keras(),
    ignore=(r"(Logits|predictions)/.*",),
    # Keras pads even sizes on one side only, odd ones as is done here.
    preprocessing=dataclasses.replace(HALVES, size_remainder=1),
  ),
}
