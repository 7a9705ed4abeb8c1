"""Where the published ResNets' arrays go."""

from __future__ import annotations

from errseg_jax.models.rules import Rule, prefixed, torch_bn, torch_conv

# The classifier of a network trained on ImageNet, which a backbone has no place for.
CLASSIFIER = (r"fc\.(weight|bias)",)


def _stages(shortcut: int = 0) -> tuple[Rule, ...]:
  """layer1.0.conv1 and its like; `shortcut` is the index of the shortcut's convolution."""
  block, ours = r"layer(\d)\.(\d+)", r"layer\1_\2"
  return (
    *torch_conv(rf"{block}\.conv(\d)", rf"{ours}/conv\3"),
    *torch_bn(rf"{block}\.bn(\d)", rf"{ours}/bn\3"),
    *torch_conv(rf"{block}\.downsample\.{shortcut}", f"{ours}/shortcut"),
    *torch_bn(rf"{block}\.downsample\.{shortcut + 1}", f"{ours}/shortcut_bn"),
  )


def _deep_stem(published: str) -> tuple[Rule, ...]:
  """Convolutions 0, 3, 6 of a sequence, each followed by its normalisation and a ReLU."""
  rules: tuple[Rule, ...] = ()
  for i in range(3):
    rules += torch_conv(rf"{published}\.{3 * i}", f"stem{i + 1}/conv")
    rules += torch_bn(rf"{published}\.{3 * i + 1}", f"stem{i + 1}/bn")
  return rules


def torchvision(prefix: str = "") -> tuple[Rule, ...]:
  """torchvision, and segmentation-models-pytorch with the prefix "encoder."; `stem="plain"`."""
  return prefixed((*torch_conv("conv1", "stem/conv"), *torch_bn("bn1", "stem/bn"), *_stages()), prefix)


def semseg(prefix: str = "") -> tuple[Rule, ...]:
  """semseg's PSPNet; `stem="semseg"`."""
  return prefixed((*_deep_stem("layer0"), *_stages()), prefix)


def mmseg(prefix: str = "", average_shortcut: bool = False) -> tuple[Rule, ...]:
  """mmsegmentation's ResNetV1c, or V1d with `average_shortcut`; `stem="mmseg"`."""
  return prefixed((*_deep_stem("stem"), *_stages(int(average_shortcut))), prefix)
