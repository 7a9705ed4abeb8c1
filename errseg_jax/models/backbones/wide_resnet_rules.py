"""Where the published Wide ResNet-38s' arrays go."""

from __future__ import annotations

from errseg_jax.models.backbones.wide_resnet import LEVELS
from errseg_jax.models.rules import Rule


def _mxnet_bn(published: str, ours: str) -> tuple[Rule, ...]:
  return (
    Rule(f"(?:arg:)?{published}_gamma", f"{ours}/scale"),
    Rule(f"(?:arg:)?{published}_beta", f"{ours}/bias"),
    Rule(f"(?:aux:)?{published}_moving_mean", f"{ours}/mean", collection="batch_stats"),
    Rule(f"(?:aux:)?{published}_moving_var", f"{ours}/var", collection="batch_stats"),
  )


def _mxnet_conv(published: str, ours: str) -> Rule:
  return Rule(f"(?:arg:)?{published}_weight", f"{ours}/conv/kernel", "conv")


def mxnet() -> tuple[Rule, ...]:
  """ademxapp's model A1, names with or without MXNet's "arg:" and "aux:"."""
  rules = [_mxnet_conv("conv1a", "conv1"), *_mxnet_bn("bn7", "bn")]
  for level, (count, channels, _) in enumerate(LEVELS, start=2):
    for i in range(count):
      block, ours = f"{level}b{i}" if i else f"{level}a", f"level{level}_{i}"
      rules.append(_mxnet_conv(f"res{block}_branch1", f"{ours}/shortcut"))
      for n in range(len(channels)):
        branch = f"{block}_branch2b{n}" if n else f"{block}_branch2a"
        rules.append(_mxnet_conv(f"res{branch}", f"{ours}/conv{n + 1}"))
        rules += _mxnet_bn(f"bn{branch}", f"{ours}/bn{n + 1}")
  return tuple(rules)
