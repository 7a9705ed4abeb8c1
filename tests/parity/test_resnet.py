"""ResNet against torchvision, timm and segmentation-models-pytorch."""

import re

import pytest

from errseg_jax.models.backbones import ResNet, resnet_rules
from errseg_jax.models.backbones.resnet_rules import CLASSIFIER


def torchvision_maps(net):
  """(NCHW tensor) -> maps at strides 2, 4, 8 and the last."""

  def run(x):
    stem = net.relu(net.bn1(net.conv1(x)))
    maps = [net.layer1(net.maxpool(stem))]
    for layer in (net.layer2, net.layer3, net.layer4):
      maps.append(layer(maps[-1]))
    return [stem, maps[0], maps[1], maps[3]]

  return run


@pytest.mark.parametrize("output_stride", [8, 16])
def test_torchvision(parity, output_stride):
  from torchvision.models import resnet50

  net = parity.randomize(
    resnet50(weights=None, replace_stride_with_dilation=[False, output_stride == 8, True])
  )
  parity.check_backbone(
    ResNet(50, output_stride=output_stride),
    resnet_rules.torchvision(),
    net,
    torchvision_maps(net),
    (*parity.COUNTERS, *CLASSIFIER),
  )


@pytest.mark.parametrize("output_stride", [8, 16])
def test_basic_blocks_of_timm_take_the_dilation_before_in_their_first_convolution(parity, output_stride):
  import timm

  net = parity.randomize(timm.create_model("resnet34", output_stride=output_stride, features_only=True))
  net.eval()
  parity.check_backbone(
    ResNet(34, output_stride=output_stride),
    resnet_rules.torchvision(),
    net,
    lambda x: [y for i, y in enumerate(net(x)) if i != 3],
  )


@pytest.mark.parametrize("output_stride", [8, 16])
def test_smp_dilates_a_whole_stage(parity, output_stride):
  from segmentation_models_pytorch.encoders import get_encoder

  net = get_encoder("resnet34", weights=None, output_stride=output_stride)
  parity.check_backbone(
    ResNet(34, output_stride=output_stride, first_dilation="stage"),
    resnet_rules.torchvision(),
    parity.randomize(net),
    lambda x: [y for i, y in enumerate(net(x)) if i not in (0, 4)],
  )


def test_deep_stem_and_average_shortcuts_are_those_of_v1d(parity):
  import timm

  net = parity.randomize(timm.create_model("resnet50d", features_only=True))
  names = {r"conv1\.": "stem.", r"bn1\.": "stem.7."}
  arrays = net.state_dict()

  class Renamed:
    """timm's ResNet-D under mmsegmentation's names."""

    def state_dict(self):
      def rename(name):
        for old, new in names.items():
          name = re.sub(f"^{old}", new, name)
        return name

      return {rename(name): array for name, array in arrays.items()}

  module = ResNet(50, output_stride=32, stem="mmseg", average_shortcut=True)
  rules = resnet_rules.mmseg(average_shortcut=True)
  parity.check_backbone(module, rules, Renamed(), lambda x: [y for i, y in enumerate(net(x)) if i != 3])


@pytest.mark.parametrize("output_stride", [8, 16])
def test_semseg_is_a_torchvision_network_with_a_deep_stem_and_dilated_conv2(parity, output_stride):
  """semseg builds PSPNet so: a stem of 64, 64, 128, then every conv2 of a stage without stride dilated."""
  import torch
  from torchvision.models import resnet50

  nn = torch.nn
  net = resnet50(weights=None)

  def unit(inputs, outputs, stride):
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()

  net.layer0 = nn.Sequential(*unit(3, 64, 2), *unit(64, 64, 1), *unit(64, 128, 1))
  net.layer1[0].conv1 = nn.Conv2d(128, 64, 1, bias=False)
  net.layer1[0].downsample[0] = nn.Conv2d(128, 256, 1, bias=False)
  dilated = {8: {"layer3": 2, "layer4": 4}, 16: {"layer4": 2}}[output_stride]
  for stage, dilation in dilated.items():
    layer = getattr(net, stage)
    layer[0].downsample[0].stride = (1, 1)
    for block in layer:
      block.conv2.stride, block.conv2.dilation, block.conv2.padding = (1, 1), (dilation,) * 2, (dilation,) * 2
  net.conv1, net.bn1, net.relu = net.layer0, nn.Identity(), nn.Identity()
  parity.randomize(net)
  parity.check_backbone(
    ResNet(50, output_stride=output_stride, stem="semseg", first_dilation="stage"),
    resnet_rules.semseg(),
    net,
    torchvision_maps(net),
    (*parity.COUNTERS, *CLASSIFIER, r"conv1\..*"),
  )
