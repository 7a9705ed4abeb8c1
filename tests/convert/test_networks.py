"""Every known network: what its rules are made for is recognised from its arrays, and every array arrives."""

import jax
import numpy as np
import pytest

from errseg_jax.convert.command import converted_variables, likely, num_classes, resolved_config
from errseg_jax.convert.networks import NETWORKS
from errseg_jax.models.heads import (
  deeplabv3_rules,
  deeplabv3plus_rules,
  dpc_rules,
  fcn_rules,
  largefov_rules,
  pan_rules,
  pspnet_rules,
)

RESNET = {"name": "resnet", "depth": 50, "width": 8}
SMP = {**RESNET, "first_dilation": "stage"}
MMSEG = {**RESNET, "stem": "mmseg", "output_stride": 8, "dilate_conv2": False}
XCEPTION = {"name": "xception", "multiplier": 0.125}
# Backbone and head as published, with channels so few that they must have been read off the arrays.
PUBLISHED = {
  "torchvision_deeplabv3": (
    {**RESNET, "output_stride": 8},
    {"name": "deeplabv3", "features": 6, "auxiliary_features": 4},
  ),
  "torchvision_fcn": (
    {**RESNET, "output_stride": 8},
    {"name": "fcn", "features": 6, "auxiliary_features": 0},
  ),
  "smp_deeplabv3": (
    {"name": "mobilenetv2", "first_dilation": "stage", "output_stride": 8},
    {"name": "deeplabv3", "features": 6, "separable": True, **deeplabv3_rules.FIELDS["smp"]},
  ),
  "smp_deeplabv3plus": (
    {**SMP, "depth": 34},
    {"name": "deeplabv3plus", **deeplabv3plus_rules.FIELDS["smp"], "features": 6, "low_features": 5},
  ),
  "smp_pspnet": (
    {**SMP, "output_stride": 32},
    {"name": "pspnet", **pspnet_rules.FIELDS["smp"], "features": 6},
  ),
  "smp_pan": (SMP, {"name": "pan", **pan_rules.FIELDS["smp"], "features": 6}),
  "semseg_pspnet": (
    {**SMP, "depth": 101, "stem": "semseg", "output_stride": 8},
    {"name": "pspnet", **pspnet_rules.FIELDS["semseg"], "features": 6, "auxiliary_features": 4},
  ),
  "mmseg_pspnet": (
    MMSEG,
    {
      **pspnet_rules.FIELDS["mmseg"],
      "name": "pspnet",
      "features": 6,
      "bin_features": 5,
      "auxiliary_features": 4,
    },
  ),
  "mmseg_fcn": (
    {**MMSEG, "stem": "plain"},
    {**fcn_rules.FIELDS["mmseg"], "name": "fcn", "features": 6, "auxiliary_features": 0},
  ),
  "mmseg_deeplabv3plus": (
    {**MMSEG, "average_shortcut": True},
    {
      **deeplabv3plus_rules.FIELDS["mmseg"],
      "name": "deeplabv3plus",
      "features": 6,
      "low_features": 5,
      "auxiliary_features": 4,
    },
  ),
  "tf_deeplabv3plus_xception": (
    {**XCEPTION, "depth": 65},
    {"name": "deeplabv3plus", **deeplabv3plus_rules.FIELDS["tf"], "features": 6, "low_features": 5},
  ),
  "tf_dpc_xception": (
    {**XCEPTION, "depth": 71},
    {"name": "dpc", **dpc_rules.FIELDS["tf"], "features": 6, "low_features": 5},
  ),
  "tf_deeplabv3_mobilenetv2": (
    {"name": "mobilenetv2", "bn_epsilon": 1e-3, "last_features": 0},
    {"name": "deeplabv3", **deeplabv3_rules.FIELDS["tf_mobilenetv2"], "features": 6},
  ),
  "tf_xception": ({**XCEPTION, "depth": 41}, None),
  "torchvision_resnet": (RESNET, None),
  "torchvision_vgg": ({"name": "vgg", "batch_norm": True}, None),
  "torchvision_mobilenet": ({"name": "mobilenetv2"}, None),
  "torchvision_squeezenet": ({"name": "squeezenet"}, None),
  "ademxapp_wide_resnet38": ({"name": "wide_resnet", "multiplier": 1 / 16}, None),
  "ademxapp_fcn": (
    {"name": "wide_resnet", "multiplier": 1 / 16},
    {**largefov_rules.FIELDS["ademxapp"], "name": "largefov", "hidden_features": 6},
  ),
  "keras_squeezenet": ({"name": "squeezenet"}, None),
  "keras_vgg": ({"name": "vgg"}, None),
  "keras_mobilenetv2": ({"name": "mobilenetv2", "bn_epsilon": 1e-3}, None),
}


def test_every_network_is_tested():
  assert PUBLISHED.keys() == NETWORKS.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file_is_recognised_and_arrives_whole(name, published):
  arrays, ours, config = published(name, *PUBLISHED[name], classes=5)
  network = NETWORKS[name]
  found = resolved_config(network, arrays, network.head is not None)
  assert found.segmenter.backbone == config.segmenter.backbone
  if network.head:
    assert found.segmenter.head == config.segmenter.head
    assert num_classes(network, arrays) == 5
  variables = converted_variables(network, arrays, found, "file", network.head is not None)
  jax.tree.map(np.testing.assert_array_equal, variables, {k: v for k, v in ours.items() if v})
  assert f"names are those of {name}" in likely(name, arrays)
