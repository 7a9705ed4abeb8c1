"""Dumps with the published names and shapes, written out here on their own, load strictly into the backbones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax.convert.engine import convert
from errseg_jax.errors import UserError
from errseg_jax.models.backbones import (
  VGG,
  MobileNetV2,
  SqueezeNet,
  WideResNet,
  Xception,
  mobilenetv2_rules,
  squeezenet_rules,
  vgg_rules,
  wide_resnet_rules,
  xception_rules,
)

TF_BN = ("gamma", "beta", "moving_mean", "moving_variance")


def array(*shape):
  """A view of one number: the largest dump takes no memory."""
  return np.broadcast_to(np.float32(1), shape)


def load(backbone, rules, arrays):
  x = jnp.zeros((1, 64, 64, 3))
  like = jax.eval_shape(lambda x: backbone.init(jax.random.key(0), x, False), x)
  for structure in ("params", "batch_stats"):
    like.setdefault(structure, {})
  return convert(rules, arrays, {k: v for k, v in like.items() if v}, "dump.npz")


def tf_layer(name, shape, channels, kind="weights"):
  return {f"{name}/{kind}": array(*shape), **{f"{name}/BatchNorm/{n}": array(channels) for n in TF_BN}}


def tf_xception(depth):
  """The published table of TF DeepLab's Xceptions: (scope, units, channels, shortcut) of every block."""
  entry = {71: (128, 256, 256, 728, 728)}.get(depth, (128, 256, 728))
  blocks = [(f"entry_flow/block{i}", 1, (c, c, c), True) for i, c in enumerate(entry, start=1)]
  blocks.append(("middle_flow/block1", 8 if depth == 41 else 16, (728, 728, 728), False))
  blocks.append(("exit_flow/block1", 1, (728, 1024, 1024), True))
  blocks.append(("exit_flow/block2", 1, (1536, 1536, 2048), False))
  dump = tf_layer("entry_flow/conv1_1", (3, 3, 3, 32), 32) | tf_layer(
    "entry_flow/conv1_2", (3, 3, 32, 64), 64
  )
  inputs = 64
  for scope, units, channels, shortcut in blocks:
    for unit in range(1, units + 1):
      module = f"{scope}/unit_{unit}/xception_module"
      if shortcut:
        dump |= tf_layer(f"{module}/shortcut", (1, 1, inputs, channels[-1]), channels[-1])
      for i, outputs in enumerate(channels, start=1):
        conv = f"{module}/separable_conv{i}"
        dump |= tf_layer(f"{conv}_depthwise", (3, 3, inputs, 1), inputs, "depthwise_weights")
        dump |= tf_layer(f"{conv}_pointwise", (1, 1, inputs, outputs), outputs)
        inputs = outputs
  return {f"xception_{depth}/{name}": value for name, value in dump.items()}


@pytest.mark.parametrize("depth", [41, 65, 71])
def test_tf_xception(depth):
  dump = tf_xception(depth)
  got = load(Xception(depth), xception_rules.tf(f"xception_{depth}/"), dump)
  assert len(jax.tree.leaves(got)) == len(dump)


def test_tf_xception_65_is_not_71():
  with pytest.raises(UserError, match=r"missing: 70 .*entry4_1.*other shape: 30 .*block3.*holds 660 arrays"):
    load(Xception(71), xception_rules.tf(), tf_xception(65))


MOBILENET = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))


def mobilenet_blocks():
  """(index, expansion, input channels, output channels)."""
  inputs, index = 32, 0
  for expansion, outputs, count in MOBILENET:
    for _ in range(count):
      yield index, expansion, inputs, outputs
      inputs, index = outputs, index + 1


def test_tf_mobilenetv2():
  dump = tf_layer("Conv", (3, 3, 3, 32), 32)
  for index, expansion, inputs, outputs in mobilenet_blocks():
    block, inner = f"expanded_conv_{index}" if index else "expanded_conv", inputs * expansion
    if expansion > 1:
      dump |= tf_layer(f"{block}/expand", (1, 1, inputs, inner), inner)
    dump |= tf_layer(f"{block}/depthwise", (3, 3, inner, 1), inner, "depthwise_weights")
    dump |= tf_layer(f"{block}/project", (1, 1, inner, outputs), outputs)
  dump = {f"MobilenetV2/{name}": value for name, value in dump.items()}
  got = load(MobileNetV2(bn_epsilon=1e-3, last_features=0), mobilenetv2_rules.tf(), dump)
  assert len(jax.tree.leaves(got)) == len(dump)


def test_keras_mobilenetv2():
  def layer(name, norm, *shape, kernel="kernel"):
    channels = shape[2] if kernel == "depthwise_kernel" else shape[3]
    return {f"{name}/{kernel}": array(*shape), **{f"{norm}/{n}": array(channels) for n in TF_BN}}

  dump = layer("Conv1", "bn_Conv1", 3, 3, 3, 32)
  for index, expansion, inputs, outputs in mobilenet_blocks():
    block, inner = f"block_{index}" if index else "expanded_conv", inputs * expansion
    if expansion > 1:
      dump |= layer(f"{block}_expand", f"{block}_expand_BN", 1, 1, inputs, inner)
    depthwise = f"{block}_depthwise"
    dump |= layer(depthwise, f"{depthwise}_BN", 3, 3, inner, 1, kernel="depthwise_kernel")
    dump |= layer(f"{block}_project", f"{block}_project_BN", 1, 1, inner, outputs)
  dump |= layer("Conv_1", "Conv_1_bn", 1, 1, 320, 1280)
  got = load(MobileNetV2(bn_epsilon=1e-3), mobilenetv2_rules.keras(), dump)
  assert len(jax.tree.leaves(got)) == len(dump)


VGG_LAYERS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def test_keras_vgg():
  dump, inputs = {}, 3
  for stage, layers in enumerate(VGG_LAYERS, start=1):
    for i, outputs in enumerate(layers, start=1):
      name = f"block{stage}_conv{i}"
      dump |= {f"{name}/kernel": array(3, 3, inputs, outputs), f"{name}/bias": array(outputs)}
      inputs = outputs
  assert len(jax.tree.leaves(load(VGG(), vgg_rules.keras(), dump))) == len(dump) == 26


def test_torchvision_vgg_with_its_dense_layers():
  indices = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
  dump, inputs = {}, 3
  for index, outputs in zip(indices, [c for layers in VGG_LAYERS for c in layers], strict=True):
    dump |= {
      f"features.{index}.weight": array(outputs, inputs, 3, 3),
      f"features.{index}.bias": array(outputs),
    }
    inputs = outputs
  # Of 16 channels: the published 4096 are half a gigabyte.
  for index, weight in {0: array(16, 512 * 49), 3: array(16, 16)}.items():
    dump |= {f"classifier.{index}.weight": weight, f"classifier.{index}.bias": array(16)}
  with pytest.raises(UserError) as error:
    load(VGG(32, classifier="full"), vgg_rules.torchvision(), dump)
  assert "missing" not in str(error.value)
  assert "classifier.0.weight [7, 7, 512, 16], not [7, 7, 512, 4096]" in str(error.value)


def test_keras_squeezenet():
  dump = {"conv1/kernel": array(3, 3, 3, 64), "conv1/bias": array(64)}
  inputs = 64
  for i, squeeze in zip(range(2, 10), (16, 16, 32, 32, 48, 48, 64, 64), strict=True):
    expand = 4 * squeeze
    convs = {
      "squeeze1x1": (1, inputs, squeeze),
      "expand1x1": (1, squeeze, expand),
      "expand3x3": (3, squeeze, expand),
    }
    for name, (kernel, before, after) in convs.items():
      dump[f"fire{i}/{name}/kernel"] = array(kernel, kernel, before, after)
      dump[f"fire{i}/{name}/bias"] = array(after)
    inputs = 2 * expand
  assert len(jax.tree.leaves(load(SqueezeNet(), squeezenet_rules.keras(), dump))) == len(dump) == 50


# Names of the blocks of each level and the channels of their convolutions, as ademxapp's symbols have them.
WIDE = {
  2: (3, (128, 128)),
  3: (3, (256, 256)),
  4: (6, (512, 512)),
  5: (3, (512, 1024)),
  6: (1, (512, 1024, 2048)),
  7: (1, (1024, 2048, 4096)),
}


def wide_blocks():
  """(level, index in it, [(input channels, output channels, kernel)])."""
  inputs = 64
  for level, (count, channels) in WIDE.items():
    kernels = (3, 3) if len(channels) == 2 else (1, 3, 1)
    for index in range(count):
      chain = (inputs, *channels)
      yield level, index, list(zip(chain, chain[1:], kernels, strict=False))
      inputs = channels[-1]


@pytest.mark.parametrize("marked", [False, True])
def test_mxnet_wide_resnet(marked):
  arg, aux = ("arg:", "aux:") if marked else ("", "")

  def norm(name, channels):
    learned = {f"{arg}{name}_{kind}": array(channels) for kind in ("gamma", "beta")}
    return learned | {f"{aux}{name}_moving_{kind}": array(channels) for kind in ("mean", "var")}

  dump = {f"{arg}conv1a_weight": array(64, 3, 3, 3), **norm("bn7", 4096)}
  for level, index, convs in wide_blocks():
    block = f"{level}b{index}" if index else f"{level}a"
    if index == 0:
      dump[f"{arg}res{block}_branch1_weight"] = array(convs[-1][1], convs[0][0], 1, 1)
    for i, (inputs, outputs, kernel) in enumerate(convs):
      branch = f"{block}_branch2b{i}" if i else f"{block}_branch2a"
      dump |= norm(f"bn{branch}", inputs)
      dump[f"{arg}res{branch}_weight"] = array(outputs, inputs, kernel, kernel)
  got = load(WideResNet("a1"), wide_resnet_rules.mxnet(), dump)
  assert len(jax.tree.leaves(got)) == len(dump)
