"""The pixels of one phase of a tile of cells, as every kernel sees them."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from errseg_jax.kernels.body import (
  CLIP,
  TINY,
  Scores,
  confusion_rates,
  disbelief,
  kept,
  largest,
  pick,
  total,
)
from errseg_jax.kernels.layout import Layout
from errseg_jax.kernels.terms import Terms
from errseg_jax.structs import IGNORE

SCALARS = ("prior_scale", "prior_offset", "scale", "offset", "threshold", "temperature")
CLASS_ROWS = ("weight", "shift", "unweight", "diagonal")


class Tile:
  """What is known of one phase; every value is computed when it is first asked for.

  Attributes:
    refs: the kernel's arguments by name; of maps by (name, neighbour down).
    layout: of the maps.
    coarse: its settings; the arrays are not looked at.
    phase: index, traced.
  """

  def __init__(self, refs: Mapping[Any, Any], layout: Layout, coarse: Any, phase: Any):
    self.refs, self.layout, self.coarse, self.phase = refs, layout, coarse, phase
    self.num_classes = layout.num_classes

  def scalar(self, name: str) -> jax.Array:
    """One of SCALARS, [1, 128]."""
    return self.refs["scalars"][SCALARS.index(name)]

  def of_class(self, name: str) -> Scores:
    """One of CLASS_ROWS, by class."""
    start = CLASS_ROWS.index(name) * self.num_classes
    return lambda c: self.refs["classes"][start + c]

  def weight_of(self, name: str, index: int) -> jax.Array:
    """The phase's weight of a neighbour, [1, 128]."""
    return self.refs["weights"][self.phase, self.layout.offset(name) + index]

  def map(self, name: str) -> Scores:
    """A map's scores."""
    ((_, down, across),) = [t for t in self.layout.taps if t[0] == name]
    weights = [self.weight_of(name, i) for i in range(down.count * across.count)]

    def scores(c):
      parts = [
        weights[i * across.count + j] * self.refs[name, i][0, j, c, 0].astype(jnp.float32)
        for i in range(down.count)
        for j in range(across.count)
      ]
      return functools.reduce(jnp.add, parts)

    return kept(scores, self.layout.depth(name))

  @functools.cached_property
  def label(self) -> jax.Array:
    """int32."""
    return self.refs["label"][0, self.phase, 0].astype(jnp.int32)

  @functools.cached_property
  def valid(self) -> jax.Array:
    """bool."""
    return self.label != IGNORE

  @functools.cached_property
  def semantic(self) -> Scores:
    """Frozen logits."""
    return self.map("semantic")

  @functools.cached_property
  def detail(self) -> Scores:
    """Detail logits."""
    own = self.map("detail")
    if not self.coarse.residual:
      return own
    semantic = self.semantic
    return kept(lambda c: own(c) + semantic(c), self.num_classes)

  @functools.cached_property
  def semantic_top(self) -> tuple[jax.Array, jax.Array]:
    """Largest frozen logit and its class."""
    return largest(self.semantic, self.num_classes)

  @functools.cached_property
  def detail_top(self) -> tuple[jax.Array, jax.Array]:
    """Largest detail logit and its class."""
    return largest(self.detail, self.num_classes)

  @functools.cached_property
  def doubt(self) -> jax.Array:
    """Logit of 1 - max P_sb, clipped."""
    top, label = self.semantic_top
    others = total(self.semantic, self.num_classes, top, label)
    return jnp.clip(jnp.log(jnp.maximum(others, TINY)), -CLIP, CLIP)

  @functools.cached_property
  def prior(self) -> jax.Array:
    """z0 of the error branch."""
    if self.coarse.prior == "msp":
      return self.doubt
    shift, detail = self.of_class("shift"), self.detail
    belief = kept(lambda c: detail(c) - shift(c), self.num_classes)
    top, _ = largest(belief, self.num_classes)
    return disbelief(belief, self.num_classes, self.semantic_top[1], top)

  @functools.cached_property
  def error(self) -> jax.Array:
    """Raw error logit."""
    raw = self.map("error")(0)
    if self.coarse.prior == "none":
      return raw
    return raw + self.scalar("prior_scale") * self.prior + self.scalar("prior_offset")

  @functools.cached_property
  def error_probability(self) -> jax.Array:
    """Calibrated P_ep."""
    return jax.nn.sigmoid(self.scalar("scale") * self.error + self.scalar("offset"))

  @functools.cached_property
  def wrong(self) -> jax.Array:
    """bool, M_err."""
    return self.valid & (self.semantic_top[1] != self.label)

  def hard(self, rho: float) -> jax.Array:
    """bool: max P_sb above rho."""
    return -self.doubt > math.log(rho / (1 - rho))

  def detail_weight(self, terms: Terms) -> jax.Array:
    """What a pixel counts in the detail branch's loss."""
    detail = terms.detail
    assert detail is not None
    weight = self.valid.astype(jnp.float32)
    if detail.class_weights:
      weight = pick(self.of_class("weight"), self.num_classes, self.label)
    if detail.weights == "all":
      return weight
    alone = detail.max_probability or self.coarse.error is None
    p = jax.nn.sigmoid(self.doubt) if alone else self.error_probability
    if detail.weights == "mask":
      return jnp.where(p > detail.t, weight, 0.0)
    return weight * (1.0 + detail.k * p)

  @functools.cached_property
  def detail_total(self) -> jax.Array:
    """Sum of exp(detail logit - the largest)."""
    return total(self.detail, self.num_classes, self.detail_top[0])

  @functools.cached_property
  def detail_others(self) -> jax.Array:
    """The same without the largest."""
    return total(self.detail, self.num_classes, *self.detail_top)

  @functools.cached_property
  def cross_entropy(self) -> jax.Array:
    """-log P_db[label]; garbage where ignored."""
    return self.detail_top[0] + jnp.log(self.detail_total) - pick(self.detail, self.num_classes, self.label)

  @functools.cached_property
  def detail_probability(self) -> Scores:
    """P_db."""
    logits, top, scale = self.detail, self.detail_top[0], 1.0 / self.detail_total
    return kept(lambda c: jnp.exp(logits(c) - top) * scale, self.num_classes)

  @functools.cached_property
  def diagonal(self) -> jax.Array:
    """c_ii of the label."""
    return pick(self.of_class("diagonal"), self.num_classes, self.label)

  @functools.cached_property
  def rates(self) -> list[jax.Array]:
    """c_ij of the label and every class j."""
    return confusion_rates(lambda i: self.refs["matrix"][i], self.label, self.num_classes)
