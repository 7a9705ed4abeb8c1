"""Conversion rules as data: which published array is which of our parameters.

A backbone's or head's rules stand beside it in `<name>_rules.py`: one function per published family that returns
a tuple of `Rule`. `convert.engine` applies them. A `published` argument is a regular expression, `ours` a path with
\\1-style groups of it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence

import numpy as np


def _transpose(*axes: int) -> Callable[[np.ndarray], np.ndarray]:
  return lambda array: array.transpose(axes)


def _dense_to_conv(size: int) -> Callable[[np.ndarray], np.ndarray]:
  """A dense layer [O, I * size * size] over a flattened [I, size, size] map, as the convolution that it is."""
  return lambda array: array.reshape(len(array), -1, size, size).transpose(2, 3, 1, 0)


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  "copy": lambda array: array,
  "conv": _transpose(2, 3, 1, 0),  # OIHW -> HWIO
  "depthwise": _transpose(2, 3, 1, 0),  # O1HW -> HW1O
  "dense_conv": _dense_to_conv(1),  # OI -> 11IO
  "dense_conv7": _dense_to_conv(7),  # O(I77) -> 77IO, as VGG's first dense layer
  "tf_depthwise": _transpose(0, 1, 3, 2),  # HWC1 -> HW1C
}

# Counters that PyTorch keeps beside its statistics.
TORCH_IGNORED = (r".*\bnum_batches_tracked",)


@dataclasses.dataclass(frozen=True)
class Rule:
  """One pattern of published names and where its arrays go.

  Attributes:
    pattern: regular expression that must match the whole published name.
    target: our path below the collection, "/"-joined, with \\1-style groups: r"layer\\1_\\2/conv\\3/conv/kernel".
    layout: a key of LAYOUTS.
    collection: "params" or "batch_stats".
  """

  pattern: str
  target: str
  layout: str = "copy"
  collection: str = "params"

  def path(self, name: str) -> str | None:
    """Our path with its collection in front for a published name, None where the rule does not speak of it."""
    match = re.fullmatch(self.pattern, name)
    return f"{self.collection}/{match.expand(self.target)}" if match else None


def prefixed(rules: Sequence[Rule], published: str = "", ours: str = "") -> tuple[Rule, ...]:
  """The same rules for a part of a whole.

  Args:
    rules: of the part.
    published: stands before every published name, literally: "backbone.".
    ours: module that holds the part: "backbone". Empty = the part is the whole.
  """
  below = f"{ours}/" if ours else ""
  return tuple(
    dataclasses.replace(r, pattern=f"{re.escape(published)}(?:{r.pattern})", target=below + r.target)
    for r in rules
  )


def torch_conv(published: str, ours: str, bias: bool = False, layout: str = "conv") -> tuple[Rule, ...]:
  """A PyTorch convolution or dense layer into a `layers.Conv` at `ours`."""
  rules = (Rule(rf"{published}\.weight", f"{ours}/conv/kernel", layout),)
  return (*rules, Rule(rf"{published}\.bias", f"{ours}/conv/bias")) if bias else rules


def torch_depthwise(published: str, ours: str) -> tuple[Rule, ...]:
  """A PyTorch depthwise convolution without bias into a `layers.DepthwiseConv` at `ours`."""
  return (Rule(rf"{published}\.weight", f"{ours}/kernel", "depthwise"),)


def _batch_norm(ours: str, scale: str, bias: str, mean: str, var: str) -> tuple[Rule, ...]:
  return (
    Rule(scale, f"{ours}/scale"),
    Rule(bias, f"{ours}/bias"),
    Rule(mean, f"{ours}/mean", collection="batch_stats"),
    Rule(var, f"{ours}/var", collection="batch_stats"),
  )


def torch_bn(published: str, ours: str) -> tuple[Rule, ...]:
  """A PyTorch batch normalisation into a `layers.BatchNorm` at `ours`."""
  names = ("weight", "bias", "running_mean", "running_var")
  return _batch_norm(ours, *(rf"{published}\.{name}" for name in names))


def tf_conv(published: str, ours: str, bias: bool = False) -> tuple[Rule, ...]:
  """A TF-slim convolution (HWIO, as here) into a `layers.Conv` at `ours`."""
  rules = (Rule(f"{published}/weights", f"{ours}/conv/kernel"),)
  return (*rules, Rule(f"{published}/biases", f"{ours}/conv/bias")) if bias else rules


def tf_depthwise(published: str, ours: str) -> tuple[Rule, ...]:
  """A TF-slim depthwise convolution into a `layers.DepthwiseConv` at `ours`."""
  return (Rule(f"{published}/depthwise_weights", f"{ours}/kernel", "tf_depthwise"),)


def tf_bn(published: str, ours: str) -> tuple[Rule, ...]:
  """The batch normalisation of a TF-slim layer into a `layers.BatchNorm` at `ours`."""
  names = ("gamma", "beta", "moving_mean", "moving_variance")
  return _batch_norm(ours, *(f"{published}/BatchNorm/{name}" for name in names))
