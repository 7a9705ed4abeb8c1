"""Where the published SqueezeNets' arrays go."""

from __future__ import annotations

from errseg_jax.models.backbones.squeezenet import POOL_BEFORE, SQUEEZE
from errseg_jax.models.rules import Rule, prefixed, torch_conv

# The classifier of a network trained on ImageNet, which a backbone has no place for.
CLASSIFIER = (r"classifier\.1\.(weight|bias)", "conv10/(kernel|bias)")


def torchvision(prefix: str = "") -> tuple[Rule, ...]:
  """torchvision's squeezenet1_1."""
  rules = [Rule(r"features\.0\.weight", "conv1/kernel", "conv"), Rule(r"features\.0\.bias", "conv1/bias")]
  index = 1
  for i in SQUEEZE:
    index += 1 + (i in POOL_BEFORE)
    rules += torch_conv(rf"features\.{index}\.squeeze", f"fire{i}/squeeze1x1", bias=True)
    rules += torch_conv(rf"features\.{index}\.(expand\dx\d)", rf"fire{i}/\1", bias=True)
  return prefixed(rules, prefix)


def keras() -> tuple[Rule, ...]:
  """SqueezeNet 1.1 for Keras, names as LAYER/KIND ("fire2/squeeze1x1/kernel")."""
  return (
    Rule("conv1/(kernel|bias)", r"conv1/\1"),
    Rule(r"(fire\d)/(squeeze1x1|expand\dx\d)/(kernel|bias)", r"\1/\2/conv/\3"),
  )
