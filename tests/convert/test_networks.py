"""Every known network: what its rules are made for is recognised from its arrays, and every array arrives."""

import jax
import numpy as np
import pytest

from errseg_jax.convert.command import converted_variables, likely, num_classes, resolved_config
from errseg_jax.convert.networks import NETWORKS

# Backbone and head as published, in the smallest form that is recognised; width and channels are read off.
PUBLISHED = {
  "torchvision_resnet": ({"name": "resnet", "depth": 50, "width": 8}, None),
  "torchvision_vgg": ({"name": "vgg", "batch_norm": True}, None),
  "torchvision_mobilenet": ({"name": "mobilenetv2"}, None),
  "ademxapp_wide_resnet38": ({"name": "wide_resnet", "multiplier": 1 / 16}, None),
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
