"""Subnets for groups of confused classes, each with its own output space (P1; Geng et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from errseg_jax.models.detail_branch import ImageEncoder
from errseg_jax.models.layers import ConvGNReLU, param_dtype
from errseg_jax.models.resize import resize
from errseg_jax.structs import IGNORE, Features

RULES = ("product", "sum", "known")


def group_label(label: jax.Array, group: Sequence[int]) -> jax.Array:
  """Labels in a subnet's own space: 0 = "others", 1..K = the group's classes in order, 255 stays.

  Args:
    label: uint8 [...], train ids, 255 = ignore.
    group: K class indices.
  """
  table = np.zeros(256, np.uint8)
  table[IGNORE] = IGNORE
  table[list(group)] = np.arange(1, len(group) + 1)
  return jnp.asarray(table)[label.astype(jnp.int32)]


def common_scores(log_p: jax.Array, group: Sequence[int], num_classes: int) -> jax.Array:
  """A subnet's scores in the space of all classes: a class outside its group takes the score of "others".

  Args:
    log_p: [..., K + 1], "others" first.
    group: K class indices.
    num_classes: C.

  Returns:
    [..., C].
  """
  place = np.zeros(num_classes, np.int32)
  place[list(group)] = np.arange(1, len(group) + 1)
  return log_p[..., place]


def fuse_groups(
  semantic: jax.Array, subnets: Sequence[jax.Array], groups: Sequence[Sequence[int]], rule: str
) -> jax.Array:
  """Scores of the network and of its subnets as one, in log space.

  Args:
    semantic: logits [..., C] of the network, subnet 0.
    subnets: logits [..., K_g + 1] of each group.
    groups: class indices of each group.
    rule: "product" or "sum" of the probabilities of all in the common space (P1, section 3.4); "known": the mean
      over the subnets that know the class, so that "others" votes for none.

  Returns:
    Logits [..., C] in float32 or better.
  """
  num_classes = semantic.shape[-1]
  kind = jnp.promote_types(semantic.dtype, jnp.float32)
  scores = [jax.nn.log_softmax(semantic.astype(kind))]
  for z, group in zip(subnets, groups, strict=True):
    scores.append(common_scores(jax.nn.log_softmax(z.astype(kind)), group, num_classes))
  if rule == "product":
    return sum(scores[1:], scores[0])
  stacked = jnp.stack(scores)
  if rule == "sum":
    return jax.nn.logsumexp(stacked, 0)
  known = np.zeros((len(scores), num_classes), bool)
  known[0] = True
  for number, group in enumerate(groups, 1):
    known[number, list(group)] = True
  mask = known.reshape(len(scores), *(1,) * (semantic.ndim - 1), num_classes)
  count = known.sum(0).reshape((1,) * (semantic.ndim - 1) + (num_classes,))
  return jax.nn.logsumexp(jnp.where(mask, stacked, -jnp.inf), 0) - jnp.log(jnp.asarray(count, kind))


class Subnet(nn.Module):
  """The head of one group: convolutions over frozen features, scores of "others" and of the group's classes.

  Attributes:
    outputs: K + 1.
    features: channels of the convolutions; a low-level input is projected to half as many.
    depth: 3x3 convolutions.
    dilation: of these.
  """

  outputs: int
  features: int = 64
  depth: int = 2
  dilation: int = 1
  dtype: str = "float32"

  @nn.compact
  def __call__(self, high: jax.Array | None, low: Sequence[jax.Array], align_corners: bool) -> jax.Array:
    """[B, h', w', C'] or None, maps [B, h_i, w_i, C_i] -> logits [B, h, w, K + 1] at the finest of them."""
    maps = [] if high is None else [high.astype(self.dtype)]
    for number, x in enumerate(low):
      maps.append(ConvGNReLU(self.features // 2, 1, dtype=self.dtype, name=f"low{number}")(x))
    size = max(x.shape[1:3] for x in maps)
    x = jnp.concatenate([resize(x, size, align_corners) for x in maps], -1)
    for number in range(self.depth):
      unit = ConvGNReLU(self.features, dilation=self.dilation, dtype=self.dtype, name=f"conv{number + 1}")
      x = unit(x)
    kind = param_dtype(self.dtype)
    return nn.Conv(self.outputs, (1, 1), dtype=kind, param_dtype=kind, name="classifier")(x)


class ConfusionGroups(nn.Module):
  """All subnets of a network. Their encoder, the network, is frozen.

  Attributes:
    num_classes: C.
    groups: class indices of each group.
    rule: of the fusion, one of RULES; "product" as published. A subnet's "others" mostly repeats the network's own
      word, and a product counts it twice.
    features: channels of the subnets.
    depth: 3x3 convolutions; as the following two, one value for all groups or one for each.
    dilation: of these.
    strides: low-level maps beside the network's `high`, by stride. One that the network lacks comes from an
      encoder on image and P_sb.
  """

  num_classes: int
  groups: tuple[tuple[int, ...], ...]
  rule: str = "known"
  features: int = 64
  depth: tuple[int, ...] = (2,)
  dilation: tuple[int, ...] = (1,)
  strides: tuple[Any, ...] = (4,)
  dtype: str = "float32"

  @nn.compact
  def __call__(self, image: jax.Array, features: Features) -> tuple[jax.Array, ...]:
    """uint8 [B, H, W, 3], the frozen network's features -> logits [B, h, w, K_g + 1] of each group."""
    low = self.low_level(image, features)
    out = []
    for number, group in enumerate(self.groups):
      subnet = Subnet(
        len(group) + 1,
        self.features,
        of_group(self.depth, number),
        of_group(self.dilation, number),
        self.dtype,
        name=f"subnet{number + 1}",
      )
      own = [low[stride] for stride in strides_of(self.strides, number)]
      out.append(subnet(features.high, own, features.align_corners))
    return tuple(out)

  def low_level(self, image: jax.Array, features: Features) -> dict[int, jax.Array]:
    given = dict(zip(features.strides, features.low, strict=True))
    wanted = sorted({s for number in range(len(self.groups)) for s in strides_of(self.strides, number)})
    low = {stride: given[stride].astype(self.dtype) for stride in wanted if stride in given}
    if missing := tuple(stride for stride in wanted if stride not in given):
      low |= ImageEncoder(missing, dtype=self.dtype, name="encoder")(image, features.logits)
    return low


def of_group(values: Sequence[int], number: int) -> int:
  """The value of a group: the one of all, or its own."""
  return values[0] if len(values) == 1 else values[number]


def strides_of(strides: Sequence[Any], number: int) -> Sequence[int]:
  """The strides of a group: those of all, (4,) or (4, 8), or its own, ((4,), (4, 8))."""
  return strides[number] if strides and isinstance(strides[0], tuple) else strides
