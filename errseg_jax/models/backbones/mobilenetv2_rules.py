"""Where the published MobileNetV2s' arrays go."""

from __future__ import annotations

from errseg_jax.models.rules import (
  Rule,
  prefixed,
  tf_bn,
  tf_conv,
  tf_depthwise,
  torch_bn,
  torch_conv,
  torch_depthwise,
)

# The classifier of a network trained on ImageNet, which a backbone has no place for.
CLASSIFIER = (r"classifier\.1\.(weight|bias)",)
BLOCKS = 17


def torchvision(prefix: str = "") -> tuple[Rule, ...]:
  """torchvision, and segmentation-models-pytorch with the prefix "encoder."."""
  rules = [*torch_conv(r"features\.0\.0", "conv"), *torch_bn(r"features\.0\.1", "conv_bn")]
  for i in range(BLOCKS):
    # The first block has no expansion, so that what follows it moves up.
    block, ours, after = rf"features\.{i + 1}\.conv", f"block{i}", int(i > 0)
    if after:
      rules += torch_conv(rf"{block}\.0\.0", f"{ours}/expand")
      rules += torch_bn(rf"{block}\.0\.1", f"{ours}/expand_bn")
    rules += torch_depthwise(rf"{block}\.{after}\.0", f"{ours}/depthwise")
    rules += torch_bn(rf"{block}\.{after}\.1", f"{ours}/depthwise_bn")
    rules += torch_conv(rf"{block}\.{after + 1}", f"{ours}/project")
    rules += torch_bn(rf"{block}\.{after + 2}", f"{ours}/project_bn")
  rules += [*torch_conv(r"features\.18\.0", "last"), *torch_bn(r"features\.18\.1", "last_bn")]
  return prefixed(rules, prefix)


def tf(prefix: str = "MobilenetV2/") -> tuple[Rule, ...]:
  """TF-slim; `bn_epsilon=1e-3`, and `last_features=0` for TF DeepLab's."""
  rules = [*tf_conv("Conv", "conv"), *tf_bn("Conv", "conv_bn")]
  for i in range(BLOCKS):
    block, ours = f"expanded_conv_{i}" if i else "expanded_conv", f"block{i}"
    rules += [*tf_conv(f"{block}/expand", f"{ours}/expand"), *tf_bn(f"{block}/expand", f"{ours}/expand_bn")]
    rules += tf_depthwise(f"{block}/depthwise", f"{ours}/depthwise")
    rules += tf_bn(f"{block}/depthwise", f"{ours}/depthwise_bn")
    rules += [
      *tf_conv(f"{block}/project", f"{ours}/project"),
      *tf_bn(f"{block}/project", f"{ours}/project_bn"),
    ]
  rules += [*tf_conv("Conv_1", "last"), *tf_bn("Conv_1", "last_bn")]
  return prefixed(rules, prefix)


def _keras_bn(published: str, ours: str) -> tuple[Rule, ...]:
  names = {"scale": "gamma", "bias": "beta"}
  moments = {"mean": "moving_mean", "var": "moving_variance"}
  return (
    *(Rule(f"{published}/{theirs}", f"{ours}/{name}") for name, theirs in names.items()),
    *(Rule(f"{published}/{n}", f"{ours}/{name}", collection="batch_stats") for name, n in moments.items()),
  )


def keras(prefix: str = "") -> tuple[Rule, ...]:
  """Keras applications, names as LAYER/KIND ("Conv1/kernel"); `bn_epsilon=1e-3`."""
  rules = [Rule("Conv1/kernel", "conv/conv/kernel"), *_keras_bn("bn_Conv1", "conv_bn")]
  for i in range(BLOCKS):
    block, ours = f"block_{i}" if i else "expanded_conv", f"block{i}"
    rules.append(Rule(f"{block}_depthwise/(?:depthwise_)?kernel", f"{ours}/depthwise/kernel", "tf_depthwise"))
    for part in ("expand", "project") if i else ("project",):
      rules.append(Rule(f"{block}_{part}/kernel", f"{ours}/{part}/conv/kernel"))
    for part in ("expand", "depthwise", "project"):
      rules += _keras_bn(f"{block}_{part}_BN", f"{ours}/{part}_bn")
  rules += [Rule("Conv_1/kernel", "last/conv/kernel"), *_keras_bn("Conv_1_bn", "last_bn")]
  return prefixed(rules, prefix)
