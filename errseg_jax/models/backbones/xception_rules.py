"""Where the arrays of TensorFlow's Xceptions go."""

from __future__ import annotations

from errseg_jax.models.rules import Rule, prefixed, tf_bn, tf_conv, tf_depthwise


def tf(prefix: str = "xception_65/") -> tuple[Rule, ...]:
  """TF DeepLab's checkpoints; Xception-41 and 71 have the prefixes "xception_41/" and "xception_71/"."""
  rules: list[Rule] = []
  for name in ("conv1_1", "conv1_2"):
    rules += [*tf_conv(f"entry_flow/{name}", name), *tf_bn(f"entry_flow/{name}", f"{name}_bn")]
  module, ours = r"(entry|middle|exit)_flow/block(\d)/unit_(\d+)/xception_module", r"\1\2_\3"
  separable = rf"{module}/separable_conv(\d)"
  rules += tf_depthwise(rf"{separable}_depthwise", rf"{ours}/depthwise\4")
  rules += tf_bn(rf"{separable}_depthwise", rf"{ours}/depthwise\4_bn")
  rules += tf_conv(rf"{separable}_pointwise", rf"{ours}/pointwise\4")
  rules += tf_bn(rf"{separable}_pointwise", rf"{ours}/pointwise\4_bn")
  rules += [
    *tf_conv(f"{module}/shortcut", f"{ours}/shortcut"),
    *tf_bn(f"{module}/shortcut", f"{ours}/shortcut_bn"),
  ]
  return prefixed(rules, prefix)
