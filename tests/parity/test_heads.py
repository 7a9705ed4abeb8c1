"""Heads alone on random maps, against torchvision, segmentation-models-pytorch and the layouts of semseg and mmseg."""

from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax.convert.engine import convert
from errseg_jax.models.backbones import Endpoints
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
from errseg_jax.models.heads.head import HiddenClassifier
from errseg_jax.models.resize import resize

CLASSES = 5
CHANNELS = (6, 8, 12, 24, 16)  # at strides 2, 4, 8; of the stage before the last; of the last
STRIDES = (2, 4, 8)
EVEN = ((64, 96), (96, 64))  # SMP takes only such sizes
ODD = ((65, 97), (97, 81))


def random_maps(size, output_stride, seed=0):
  rng = np.random.default_rng(seed)
  strides = (*STRIDES, min(16, output_stride), output_stride)
  shapes = [(2, *(-(-n // s) for n in size), c) for s, c in zip(strides, CHANNELS, strict=True)]
  return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def to_endpoints(maps, output_stride):
  return Endpoints(tuple(maps[:3]), maps[4], STRIDES, output_stride, maps[3])


def check(parity, head, rules, net, function, sizes, output_stride):
  """Our head with the network's arrays gives its logits at the image's size.

  Args:
    function: (maps as NCHW tensors, (H, W)) -> logits [B, C, H, W].
  """
  import torch

  arrays = {name: tensor.numpy() for name, tensor in parity.randomize(net).state_dict().items()}
  like = jax.eval_shape(
    lambda e: head.init(jax.random.key(0), e, False),
    to_endpoints(random_maps(sizes[0], output_stride), output_stride),
  )
  variables = convert(rules, arrays, like, type(head).__name__, parity.COUNTERS)
  for size in sizes:
    maps = random_maps(size, output_stride)
    out = jax.jit(lambda e: head.apply(variables, e, False))(to_endpoints(maps, output_stride))
    ours = np.asarray(resize(out.logits, size, out.align_corners))
    with torch.no_grad():
      theirs = function([torch.from_numpy(x.transpose(0, 3, 1, 2).copy()) for x in maps], size).numpy()
    parity.assert_close([ours], [theirs.transpose(0, 2, 3, 1)], f"{type(head).__name__} at {size}")
  return arrays, variables


def bilinear(x, size, align_corners):
  from torch.nn.functional import interpolate

  return interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


def torchvision_net(head):
  """A torchvision network without its backbone: classifier and auxiliary classifier."""
  import torch
  from torchvision.models.segmentation.fcn import FCNHead

  return torch.nn.ModuleDict({"classifier": head, "aux_classifier": FCNHead(CHANNELS[3], CLASSES)})


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", ["deeplabv3", "fcn"])
def test_torchvision(parity, name, output_stride):
  import torch
  from torchvision.models.segmentation.deeplabv3 import DeepLabHead
  from torchvision.models.segmentation.fcn import FCNHead

  fields = {"auxiliary_features": CHANNELS[3] // 4}
  if name == "deeplabv3":
    rates = tuple(96 // output_stride * i for i in (1, 2, 3))
    net, rules = torchvision_net(DeepLabHead(CHANNELS[4], CLASSES, rates)), deeplabv3_rules.torchvision()
    head = DeepLabV3(CLASSES, **fields)
  else:
    net, rules, head = (
      torchvision_net(FCNHead(CHANNELS[4], CLASSES)),
      fcn_rules.torchvision(),
      FCN(CLASSES, **fields),
    )

  def run(maps, size):
    return bilinear(net["classifier"](maps[4]), size, False)

  _, variables = check(parity, head, rules, net, run, ODD, output_stride)
  # The auxiliary classifier rests outside training, so it is compared by itself.
  x = random_maps(ODD[0], output_stride)[3]
  auxiliary = {kind: tree["auxiliary"] for kind, tree in variables.items()}
  ours = HiddenClassifier(CLASSES, head.unit, CHANNELS[3] // 4).apply(auxiliary, jnp.asarray(x), False)
  with torch.no_grad():
    theirs = net["aux_classifier"](torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
  parity.assert_close([np.asarray(ours)], [theirs.transpose(0, 2, 3, 1)], "auxiliary")


def smp_net(decoder, channels, kernel_size, upsampling):
  """A network of SMP without its encoder."""
  import torch
  from segmentation_models_pytorch.base import SegmentationHead

  head = SegmentationHead(channels, CLASSES, kernel_size=kernel_size, upsampling=upsampling)
  return torch.nn.ModuleDict({"decoder": decoder, "segmentation_head": head})


def smp_features(maps):
  """SMP's list: the image, then maps at strides 2 to 16 and the last."""
  return [None, *maps]


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("separable", [False, True])
def test_smp_deeplabv3(parity, output_stride, separable):
  from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3Decoder

  net = smp_net(DeepLabV3Decoder(CHANNELS[4], 12, (12, 24, 36), separable, 0.5), 12, 1, output_stride)
  rates = tuple(rate * output_stride // 16 for rate in (12, 24, 36))
  head = DeepLabV3(CLASSES, 12, rates, separable, **deeplabv3_rules.FIELDS["smp"])

  def run(maps, size):
    return net["segmentation_head"](net["decoder"](smp_features(maps)))

  check(parity, head, deeplabv3_rules.smp(), net, run, EVEN, output_stride)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_smp_deeplabv3plus(parity, output_stride):
  from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder

  decoder = DeepLabV3PlusDecoder((3, *CHANNELS), 5, 12, (12, 24, 36), output_stride, True, 0.5)
  net = smp_net(decoder, 12, 1, 4)
  rates = tuple(rate * output_stride // 16 for rate in (12, 24, 36))
  head = DeepLabV3Plus(CLASSES, 12, **(deeplabv3plus_rules.FIELDS["smp"] | {"rates": rates}))

  def run(maps, size):
    return net["segmentation_head"](net["decoder"](smp_features(maps)))

  check(parity, head, deeplabv3plus_rules.smp(), net, run, EVEN, output_stride)


def test_smp_pspnet(parity):
  from segmentation_models_pytorch.decoders.pspnet.decoder import PSPDecoder

  net = smp_net(PSPDecoder((3, *CHANNELS[:3]), out_channels=16), 16, 3, 8)
  head = PSPNet(CLASSES, 16, **pspnet_rules.FIELDS["smp"])

  def run(maps, size):
    return net["segmentation_head"](net["decoder"]([maps[2]]))

  check(parity, head, pspnet_rules.smp(), net, run, EVEN, 16)


@pytest.mark.parametrize("output_stride", [16, 32])
def test_smp_pan(parity, output_stride):
  from segmentation_models_pytorch.decoders.pan.decoder import PANDecoder

  net = smp_net(PANDecoder((3, *CHANNELS), 5, 12, "bilinear"), 12, 3, 4)
  head = PAN(CLASSES, 12, **pan_rules.FIELDS["smp"])

  def run(maps, size):
    return net["segmentation_head"](net["decoder"](smp_features(maps)))

  # Eight pixels a side at the last map: SMP halves it three times.
  sizes = [(8 * output_stride, 12 * output_stride), (11 * output_stride, 9 * output_stride)]
  check(parity, head, pan_rules.smp(), net, run, sizes, output_stride)


def conv_module(inputs, outputs, kernel_size=1, dilation=1, groups=1):
  """mmsegmentation's ConvModule: `conv`, `bn` and a ReLU."""
  from torch import nn

  padding = dilation * (kernel_size // 2)
  conv = nn.Conv2d(
    inputs, outputs, kernel_size, padding=padding, dilation=dilation, groups=groups, bias=False
  )
  return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(outputs), activate=nn.ReLU()))


def separable_module(inputs, outputs, dilation=1):
  """mmsegmentation's DepthwiseSeparableConvModule."""
  from torch import nn

  depthwise = conv_module(inputs, inputs, 3, dilation, inputs)
  return nn.Sequential(OrderedDict(depthwise_conv=depthwise, pointwise_conv=conv_module(inputs, outputs)))


def mmseg_net(**parts):
  """decode_head and auxiliary_head of mmsegmentation."""
  from torch import nn

  auxiliary = {"convs": nn.ModuleList([conv_module(CHANNELS[3], 6, 3)]), "conv_seg": nn.Conv2d(6, CLASSES, 1)}
  return nn.ModuleDict({"decode_head": nn.ModuleDict(parts), "auxiliary_head": nn.ModuleDict(auxiliary)})


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_mmseg_deeplabv3plus(parity, align_corners, output_stride):
  import torch
  from torch import nn

  rates = [96 // output_stride * i for i in (1, 2, 3)]
  net = mmseg_net(
    image_pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_module(CHANNELS[4], 12)),
    aspp_modules=nn.ModuleList(
      [conv_module(CHANNELS[4], 12), *(separable_module(CHANNELS[4], 12, rate) for rate in rates)]
    ),
    bottleneck=conv_module(60, 12, 3),
    c1_bottleneck=conv_module(CHANNELS[1], 4),
    sep_bottleneck=nn.Sequential(separable_module(16, 12), separable_module(12, 12)),
    conv_seg=nn.Conv2d(12, CLASSES, 1),
  )
  own = {"features": 12, "low_features": 4, "auxiliary_features": 6, "align_corners": align_corners}
  head = DeepLabV3Plus(CLASSES, **(deeplabv3plus_rules.FIELDS["mmseg"] | own))

  def run(maps, size):
    parts, x, low = net["decode_head"], maps[4], maps[1]
    pooled = bilinear(parts["image_pool"](x), x.shape[2:], align_corners)
    x = parts["bottleneck"](torch.cat([pooled, *(aspp(x) for aspp in parts["aspp_modules"])], 1))
    x = torch.cat([bilinear(x, low.shape[2:], align_corners), parts["c1_bottleneck"](low)], 1)
    return bilinear(parts["conv_seg"](parts["sep_bottleneck"](x)), size, align_corners)

  check(parity, head, deeplabv3plus_rules.mmseg(), net, run, ODD, output_stride)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_mmseg_fcn(parity, output_stride):
  import torch
  from torch import nn

  net = mmseg_net(
    convs=nn.Sequential(conv_module(CHANNELS[4], 12, 3), conv_module(12, 12, 3)),
    conv_cat=conv_module(CHANNELS[4] + 12, 12, 3),
    conv_seg=nn.Conv2d(12, CLASSES, 1),
  )
  head = FCN(CLASSES, **(fcn_rules.FIELDS["mmseg"] | {"features": 12, "auxiliary_features": 6}))

  def run(maps, size):
    parts, x = net["decode_head"], maps[4]
    x = parts["conv_cat"](torch.cat([x, parts["convs"](x)], 1))
    return bilinear(parts["conv_seg"](x), size, False)

  check(parity, head, fcn_rules.mmseg(), net, run, ODD, output_stride)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_mmseg_pspnet(parity, align_corners, output_stride):
  import torch
  from torch import nn

  bins = (1, 2, 3, 6)
  net = mmseg_net(
    psp_modules=nn.ModuleList(
      nn.Sequential(nn.AdaptiveAvgPool2d(n), conv_module(CHANNELS[4], 12)) for n in bins
    ),
    bottleneck=conv_module(CHANNELS[4] + 48, 12, 3),
    conv_seg=nn.Conv2d(12, CLASSES, 1),
  )
  own = {"features": 12, "bin_features": 12, "auxiliary_features": 6, "align_corners": align_corners}
  head = PSPNet(CLASSES, **(pspnet_rules.FIELDS["mmseg"] | own))

  def run(maps, size):
    parts, x = net["decode_head"], maps[4]
    levels = [bilinear(level(x), x.shape[2:], align_corners) for level in parts["psp_modules"]]
    return bilinear(parts["conv_seg"](parts["bottleneck"](torch.cat([x, *levels], 1))), size, align_corners)

  check(parity, head, pspnet_rules.mmseg(), net, run, ODD, output_stride)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_semseg_pspnet(parity, output_stride):
  import torch
  from torch import nn

  def unit(inputs, outputs, kernel_size):
    conv = nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=False)
    return conv, nn.BatchNorm2d(outputs), nn.ReLU()

  def classifier(inputs, outputs):
    return nn.Sequential(*unit(inputs, outputs, 3), nn.Dropout2d(0.1), nn.Conv2d(outputs, CLASSES, 1))

  levels = [
    nn.Sequential(nn.AdaptiveAvgPool2d(n), *unit(CHANNELS[4], CHANNELS[4] // 4, 1)) for n in (1, 2, 3, 6)
  ]
  ppm = nn.ModuleDict({"features": nn.ModuleList(levels)})
  parts = {"ppm": ppm, "cls": classifier(2 * CHANNELS[4], 12), "aux": classifier(CHANNELS[3], 6)}
  net = nn.ModuleDict(parts)
  head = PSPNet(CLASSES, **(pspnet_rules.FIELDS["semseg"] | {"features": 12, "auxiliary_features": 6}))

  def run(maps, size):
    x = maps[4]
    pooled = [bilinear(level(x), x.shape[2:], True) for level in levels]
    return bilinear(net["cls"](torch.cat([x, *pooled], 1)), size, True)

  check(parity, head, pspnet_rules.semseg(), net, run, ODD, output_stride)
