"""Whole networks, backbone and head: logits at the image's size against torchvision and segmentation-models-pytorch."""

import jax
import numpy as np
import pytest

from errseg_jax.models.backbones import MobileNetV2, ResNet, mobilenetv2_rules, resnet_rules
from errseg_jax.models.heads import (
  FCN,
  PAN,
  DeepLabV3,
  DeepLabV3Plus,
  PSPNet,
  deeplabv3_rules,
  deeplabv3plus_rules,
  fcn_rules,
  pan_rules,
  pspnet_rules,
)
from errseg_jax.models.resize import resize
from errseg_jax.models.rules import prefixed
from errseg_jax.models.segmenter import Segmenter

CLASSES = 5
EVEN = ((64, 96), (96, 64))  # SMP takes only such sizes
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def check(parity, backbone, head, rules, net, sizes):
  """Ours with all of the network's arrays gives its logits.

  Args:
    rules: (of the backbone, of the head).
  """
  segmenter = Segmenter(backbone, head, **PLAIN)
  both = (*prefixed(rules[0], ours="backbone"), *prefixed(rules[1], ours="head"))
  variables = parity.convert_to(segmenter, both, parity.randomize(net))

  @jax.jit
  def run(variables, x):
    out = segmenter.apply(variables, x)
    return resize(out.logits, x.shape[1:3], out.align_corners)

  def theirs(x):
    out = net(x)
    return [out["out"] if isinstance(out, dict) else out]

  for size in sizes:
    x = parity.images(size)
    parity.assert_close(
      [np.asarray(run(variables, x))], parity.run_torch(theirs, x), f"{type(net).__name__} at {size}"
    )


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", ["deeplabv3", "fcn"])
def test_torchvision(parity, name, output_stride):
  from torchvision.models import resnet50
  from torchvision.models.segmentation.deeplabv3 import _deeplabv3_resnet
  from torchvision.models.segmentation.fcn import _fcn_resnet

  body = resnet50(weights=None, replace_stride_with_dilation=[False, output_stride == 8, True])
  backbone = ResNet(50, output_stride=output_stride)
  if name == "deeplabv3":
    # The same dilations (12, 24, 36) whatever the output stride.
    rates = tuple(rate * output_stride // 16 for rate in (12, 24, 36))
    net, rules = _deeplabv3_resnet(body, CLASSES, True), deeplabv3_rules.torchvision()
    head = DeepLabV3(CLASSES, rates=rates, **deeplabv3_rules.FIELDS["torchvision"])
  else:
    net, rules = _fcn_resnet(body, CLASSES, True), fcn_rules.torchvision()
    head = FCN(CLASSES, **fcn_rules.FIELDS["torchvision"])
  check(parity, backbone, head, (resnet_rules.torchvision("backbone."), rules), net, parity.SIZES)


def smp_backbone(encoder, output_stride):
  if encoder == "mobilenet_v2":
    backbone = MobileNetV2(output_stride=output_stride, first_dilation="stage")
    return backbone, mobilenetv2_rules.torchvision("encoder.")
  backbone = ResNet(int(encoder[6:]), output_stride=output_stride, first_dilation="stage")
  return backbone, resnet_rules.torchvision("encoder.")


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("encoder", ["resnet34", "mobilenet_v2"])
def test_smp_deeplabv3plus(parity, encoder, output_stride):
  import segmentation_models_pytorch as smp

  net = smp.DeepLabV3Plus(encoder, encoder_weights=None, encoder_output_stride=output_stride, classes=CLASSES)
  rates = tuple(rate * output_stride // 16 for rate in (12, 24, 36))
  head = DeepLabV3Plus(CLASSES, **(deeplabv3plus_rules.FIELDS["smp"] | {"rates": rates}))
  backbone, rules = smp_backbone(encoder, output_stride)
  check(parity, backbone, head, (rules, deeplabv3plus_rules.smp()), net, EVEN)


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("separable", [False, True])
def test_smp_deeplabv3(parity, separable, output_stride):
  import segmentation_models_pytorch as smp

  net = smp.DeepLabV3(
    "resnet18",
    encoder_weights=None,
    encoder_output_stride=output_stride,
    decoder_aspp_separable=separable,
    classes=CLASSES,
  )
  rates = tuple(rate * output_stride // 16 for rate in (12, 24, 36))
  head = DeepLabV3(CLASSES, rates=rates, separable=separable, **deeplabv3_rules.FIELDS["smp"])
  backbone, rules = smp_backbone("resnet18", output_stride)
  check(parity, backbone, head, (rules, deeplabv3_rules.smp()), net, EVEN)


def test_smp_pspnet(parity):
  import segmentation_models_pytorch as smp

  net = smp.PSPNet("resnet34", encoder_weights=None, classes=CLASSES)
  head = PSPNet(CLASSES, **pspnet_rules.FIELDS["smp"])
  backbone, rules = smp_backbone("resnet34", 32)
  check(parity, backbone, head, (rules, pspnet_rules.smp()), net, EVEN)


@pytest.mark.parametrize("output_stride", [16, 32])
@pytest.mark.parametrize("encoder", ["resnet34", "mobilenet_v2"])
def test_smp_pan(parity, encoder, output_stride):
  import segmentation_models_pytorch as smp

  net = smp.PAN(encoder, encoder_weights=None, encoder_output_stride=output_stride, classes=CLASSES)
  head = PAN(CLASSES, **pan_rules.FIELDS["smp"])
  backbone, rules = smp_backbone(encoder, output_stride)
  # Eight pixels a side at the last map: SMP halves it three times.
  side = 8 * output_stride
  check(parity, backbone, head, (rules, pan_rules.smp()), net, ((side, side + 32), (side + 32, side)))
