"""The fused loss as Pallas kernels: forward sums and, with what each sum weighs, the gradient of the maps.

One body serves TPU (Mosaic) and GPU (Triton): elementwise on tiles of [r, 128] cells, classes in a loop. Forward and
backward each read the low-resolution maps and the labels once; a program writes its sums, tiles of cells that are added
up outside, and what each of a cell's corners gets of the gradient.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from errseg_jax.kernels import body
from errseg_jax.kernels.body import (
  Scores,
  confusion_slopes,
  confusion_term,
  fold,
  minus_log_sigmoid,
)
from errseg_jax.kernels.calls import Arrays, call, class_rows, scalars
from errseg_jax.kernels.layout import LANES, Layout, tile_rows
from errseg_jax.kernels.terms import Sums, Terms, label_counts
from errseg_jax.kernels.tile import Tile
from errseg_jax.structs import Coarse

TOTALS = ("easy", "hard", "correct", "wrong_count", "correct_count", "detail", "weight")
SLOPES = ("easy", "hard", "correct", "detail")
BY_CLASS = ("overlap", "mass")


class Collector:
  """Sums by class over the phases: kept in registers where the loops over classes are unrolled, else in the output.

  Attributes:
    ref: output [1, groups, C, 1, r, 128].
    groups: how many sums of each class.
    num_classes: C.
  """

  def __init__(self, ref: Any, groups: int, num_classes: int, tile: int):
    self.ref, self.groups, self.num_classes = ref, groups, num_classes
    self.zero = jnp.zeros((tile, LANES), jnp.float32)

  def start(self) -> list[jax.Array]:
    """The carry of no phase."""
    if self.num_classes <= body.UNROLLED:
      return [self.zero] * (self.groups * self.num_classes)

    def clear(c, _):
      for g in range(self.groups):
        self.ref[0, g, c, 0] = self.zero
      return 0

    fold(self.num_classes, clear, 0)
    return []

  def add(self, carry: list[jax.Array], values: Sequence[Scores]) -> list[jax.Array]:
    """The carry with one phase's values, of each group by class."""
    if self.num_classes <= body.UNROLLED:
      new = [values[g](c) for g in range(self.groups) for c in range(self.num_classes)]
      return [a + b for a, b in zip(carry, new, strict=True)]

    def step(c, _):
      for g in range(self.groups):
        self.ref[0, g, c, 0] += values[g](c)
      return 0

    fold(self.num_classes, step, 0)
    return carry

  def finish(self, carry: list[jax.Array]) -> None:
    """Writes the output."""
    for i, x in enumerate(carry):
      self.ref[0, i // self.num_classes, i % self.num_classes, 0] = x


def pixel_loss(tile: Tile, terms: Terms) -> jax.Array:
  """What a pixel costs the detail branch."""
  assert terms.detail is not None
  confusion, loss = terms.detail.confusion, tile.cross_entropy
  if confusion is None:
    return loss
  if confusion.diag == "confusion":
    loss = loss * tile.diagonal
  if confusion.strength:
    term = confusion_term(tile.detail, tile.rates, *tile.detail_top, tile.detail_others)
    loss = loss + confusion.strength * term
  return loss


def totals(tile: Tile, terms: Terms) -> dict[str, jax.Array]:
  """One phase's part of TOTALS."""
  out: dict[str, jax.Array] = {}
  right = tile.valid & ~tile.wrong
  if terms.rho is not None or terms.wrong:
    out |= {"wrong_count": tile.wrong.astype(jnp.float32), "correct_count": right.astype(jnp.float32)}
  if terms.rho is not None:
    hard = tile.hard(terms.rho)
    loss = minus_log_sigmoid(jnp.where(tile.wrong, tile.error, -tile.error))
    out["easy"] = jnp.where(tile.wrong & ~hard, loss, 0.0)
    out["hard"] = jnp.where(tile.wrong & hard, loss, 0.0)
    out["correct"] = jnp.where(right, loss, 0.0)
  if terms.detail is not None:
    out["weight"] = tile.detail_weight(terms)
    out["detail"] = jnp.where(tile.valid, out["weight"] * pixel_loss(tile, terms), 0.0)
  return out


def forward_kernel(refs: dict[Any, Any], layout: Layout, coarse: Coarse, terms: Terms) -> None:
  """Writes refs["totals"] [1, 7, 1, r, 128] and refs["by_class"] [1, 2, C, 1, r, 128]."""
  zero = jnp.zeros((layout.tile, LANES), jnp.float32)
  by_class = bool(terms.detail and terms.detail.jaccard)
  collector = Collector(refs.get("by_class"), len(BY_CLASS), layout.num_classes, layout.tile)

  def phase(f, carry):
    added, classes = carry
    tile = Tile(refs, layout, coarse, f)
    found = totals(tile, terms)
    added = [a + found.get(name, zero) for a, name in zip(added, TOTALS, strict=True)]
    if by_class:
      p = tile.detail_probability
      overlap = lambda c: jnp.where(tile.label == c, p(c), 0.0)  # noqa: E731
      classes = collector.add(classes, [overlap, lambda c: jnp.where(tile.valid, p(c), 0.0)])
    return added, classes

  start = ([zero] * len(TOTALS), collector.start() if by_class else [])
  added, classes = jax.lax.fori_loop(0, layout.phases, phase, start)
  for i, x in enumerate(added):
    refs["totals"][0, i, 0] = x
  if by_class:
    collector.finish(classes)


def error_slope(tile: Tile, terms: Terms, slope: Callable[[str], jax.Array]) -> jax.Array:
  """Gradient by the full-size error logit."""
  assert terms.rho is not None
  p = jax.nn.sigmoid(tile.error)
  of_wrong = jnp.where(tile.hard(terms.rho), slope("hard"), slope("easy")) * (p - 1.0)
  return jnp.where(tile.valid, jnp.where(tile.wrong, of_wrong, slope("correct") * p), 0.0)


def detail_slopes(tile: Tile, terms: Terms, slope: Callable[[str], jax.Array]) -> Scores:
  """Gradient by each full-size detail logit."""
  detail = terms.detail
  assert detail is not None
  p, refs, confusion = tile.detail_probability, tile.refs, detail.confusion
  weight = jnp.where(tile.valid, tile.detail_weight(terms) * slope("detail"), 0.0)
  of_nll = weight * tile.diagonal if confusion and confusion.diag == "confusion" else weight
  extra = None
  if confusion is not None and confusion.strength:
    by_unit = confusion_slopes(tile.detail, tile.rates, *tile.detail_top, tile.detail_others)
    extra = [confusion.strength * weight * x for x in by_unit]
  if detail.jaccard:

    def given(c):
      own = jnp.where(tile.label == c, refs["class_slopes"][0, 0, c], 0.0)
      return jnp.where(tile.valid, own + refs["class_slopes"][0, 1, c], 0.0)

    mean = fold(tile.num_classes, lambda c, a: a + p(c) * given(c), jnp.zeros(weight.shape, jnp.float32))

  def slopes(c):
    out = of_nll * (p(c) - jnp.where(tile.label == c, 1.0, 0.0))
    if extra is not None:
      out = out + extra[c]
    if detail.jaccard:
      out = out + p(c) * (given(c) - mean)
    return out

  return slopes


def backward_kernel(
  refs: dict[Any, Any], layout: Layout, coarse: Coarse, terms: Terms, wanted: Sequence[str]
) -> None:
  """Writes refs["d", name] [1, corners, C, 1, r, 128] of the wanted maps, refs["d_prior"] [1, 2, 1, r, 128]."""
  zero = jnp.zeros((layout.tile, LANES), jnp.float32)
  counts = {name: down.count * across.count for name, down, across in layout.taps}
  collectors = {
    name: Collector(refs["d", name], counts[name], layout.depth(name), layout.tile) for name in wanted
  }
  prior = "error" in wanted and coarse.prior != "none"

  def slope(name):
    return refs["slopes"][0, SLOPES.index(name)]

  def phase(f, carry):
    maps, scalars = carry
    tile, found = Tile(refs, layout, coarse, f), {}
    if "error" in wanted:
      of_error = error_slope(tile, terms, slope)
      found["error"] = lambda c: of_error
      if prior:
        scalars = [scalars[0] + of_error * tile.prior, scalars[1] + of_error]
    if {"detail", "semantic"} & {*wanted}:
      found["detail"] = found["semantic"] = detail_slopes(tile, terms, slope)

    def corner(name, i):
      weight, of = tile.weight_of(name, i), found[name]
      return lambda c: weight * of(c)

    maps = [
      collectors[name].add(own, [corner(name, i) for i in range(counts[name])])
      for name, own in zip(wanted, maps, strict=True)
    ]
    return maps, scalars

  start = ([collectors[name].start() for name in wanted], [zero] * (2 * prior))
  maps, scalars = jax.lax.fori_loop(0, layout.phases, phase, start)
  for name, own in zip(wanted, maps, strict=True):
    collectors[name].finish(own)
  for i, x in enumerate(scalars):
    refs["d_prior"][0, i, 0] = x


def forward_call(
  arrays: Arrays, label: jax.Array, terms: Terms, layout: Layout, platform: str
) -> tuple[jax.Array, jax.Array | None]:
  """Totals [B, 7] and, where the Jaccard loss wants them, sums by class [B, 2, C]."""
  tile = (layout.rows.cells, layout.width, LANES)
  shapes: dict[Any, tuple[int, ...]] = {"totals": (layout.batch, len(TOTALS), *tile)}
  if terms.detail and terms.detail.jaccard:
    shapes["by_class"] = (layout.batch, len(BY_CLASS), layout.num_classes, *tile)
  kernel = functools.partial(forward_kernel, layout=layout, coarse=arrays.coarse, terms=terms)
  out = call(kernel, arrays, {"label": layout.labels(label)}, shapes, layout, platform)
  by_class = out["by_class"].sum((-3, -2, -1)) if "by_class" in out else None
  return out["totals"].sum((-3, -2, -1)), by_class


def backward_call(
  arrays: Arrays,
  label: jax.Array,
  slopes: tuple[jax.Array, jax.Array | None],
  terms: Terms,
  layout: Layout,
  platform: str,
) -> Coarse:
  """Gradient of the maps; zeros where none was wanted."""
  coarse, wanted = arrays.coarse, wanted_maps(arrays.coarse, terms)
  of_totals, of_classes = slopes
  taken = of_totals[:, np.array([TOTALS.index(name) for name in SLOPES])]
  more = {"label": layout.labels(label), "slopes": tile_rows(taken)}
  if of_classes is not None:
    more["class_slopes"] = tile_rows(of_classes)
  tile = (layout.rows.cells, layout.width, LANES)
  counts = {name: down.count * across.count for name, down, across in layout.taps}
  shapes: dict[Any, tuple[int, ...]] = {
    ("d", name): (layout.batch, counts[name], layout.depth(name), *tile) for name in wanted
  }
  if "error" in wanted and coarse.prior != "none":
    shapes["d_prior"] = (layout.batch, 2, *tile)
  kernel = functools.partial(backward_kernel, layout=layout, coarse=coarse, terms=terms, wanted=wanted)
  out = call(kernel, arrays, more, shapes, layout, platform)
  zeros = jax.tree.map(jnp.zeros_like, coarse)
  found = {name: to_map(layout, name, out["d", name], coarse) for name in wanted}
  if "d_prior" in out:
    scale, offset = out["d_prior"].sum((0, 2, 3, 4))
    found |= {
      "prior_scale": scale.astype(coarse.prior_scale.dtype),
      "prior_offset": offset.astype(coarse.prior_offset.dtype),
    }
  return dataclasses.replace(zeros, **found)


def to_map(layout: Layout, name: str, corners: jax.Array, coarse: Coarse) -> jax.Array:
  """What each corner of each cell gets, added up by pixel of the map."""
  ((_, down, across),) = [t for t in layout.taps if t[0] == name]
  own = getattr(coarse, name)
  shape = own.shape if own.ndim == 4 else (*own.shape, 1)
  like = jax.ShapeDtypeStruct(shape, jnp.float32)
  back = jax.linear_transpose(lambda x: layout.corners(x, down, across), like)
  (out,) = back(layout.unlaned(corners))
  return out.reshape(own.shape).astype(own.dtype)


def wanted_maps(coarse: Coarse, terms: Terms) -> tuple[str, ...]:
  """Maps that get a gradient."""
  out = []
  if "segmenter" in coarse.trained and coarse.residual and terms.detail is not None:
    out.append("semantic")
  if "detail" in coarse.trained and terms.detail is not None:
    out.append("detail")
  if "error" in coarse.trained and terms.rho is not None:
    out.append("error")
  return tuple(out)


def pallas_sums(
  coarse: Coarse,
  label: jax.Array,
  terms: Terms,
  layout: Layout,
  platform: str,
  confusion: jax.Array | None = None,
) -> Sums:
  """`Sums` of a batch, differentiable by the maps of `coarse.trained`.

  Args:
    coarse: maps.
    label: uint8 [B, H, W].
    terms: what is wanted; something that `dispatch` lets through.
    layout: of `layout.layout`.
    platform: "tpu", "gpu" or "interpret".
    confusion: [C, C] where the pixel loss wants it.
  """
  own = classes_of(coarse, terms, confusion)

  @jax.custom_vjp
  def run(coarse, own, label):
    return forward_call(Arrays.of(coarse, layout, **own), label, terms, layout, platform)

  def forward(coarse, own, label):
    return run(coarse, own, label), (coarse, own, label)

  def backward(kept, slopes):
    coarse, own, label = kept
    grad = backward_call(Arrays.of(coarse, layout, **own), label, slopes, terms, layout, platform)
    return grad, jax.tree.map(jnp.zeros_like, own), np.zeros(label.shape, jax.dtypes.float0)

  run.defvjp(forward, backward)
  found, by_class = run(coarse, own, label)
  out = dict(zip(TOTALS, found.T, strict=True))
  if by_class is not None:
    out |= {"overlap": by_class[:, 0], "mass": by_class[:, 1]}
    out["area"] = label_counts(label, layout.num_classes)
  return Sums(**out)


def classes_of(coarse: Coarse, terms: Terms, confusion: jax.Array | None) -> dict[str, Any]:
  """The tables that the kernels look numbers up in."""
  detail = terms.detail
  calibration = detail.calibration.arrays() if detail else {}
  pixel, weights = (detail.confusion, detail.class_weights) if detail else (None, ())
  own = {
    "scalars": scalars(coarse, calibration),
    "classes": class_rows(coarse, weights),
  }
  if pixel is None or not pixel.wants_confusion:
    return own
  if confusion is None:
    raise ValueError("the confusion loss needs a confusion matrix")
  matrix = jax.lax.stop_gradient(jnp.asarray(confusion, jnp.float32))
  own["classes"] = class_rows(coarse, weights, diagonal=jnp.diagonal(matrix))
  own["matrix"] = tile_rows(pixel.off_diagonal(matrix).ravel())
  return own
