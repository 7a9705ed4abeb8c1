"""The sums of the fused loss, and the labels, band by band in plain jnp: no class map larger than a band exists.

Any sizes and both grids fit. The gradient is automatic, each band computed once more (`jax.checkpoint`) but for what
the error branch's gradient wants of class maps: whether a pixel is wrong and hard, and its prior (`kept`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from errseg_jax.kernels.blocks import Blocks, cut, cut_pixels, join_pixels, spread
from errseg_jax.kernels.terms import DetailTerms, Labels, Sums, Terms
from errseg_jax.metrics.calibration import calibrated
from errseg_jax.structs import IGNORE, Coarse, Outputs

COLUMNS = 64  # of a block, at most
BAND = 2**15  # pixels of a band, of all images: 2.5 MB at 19 classes, what a CPU's caches hold
KEPT = "pixel"  # name of what the backward pass keeps of a band
CLASS = 1  # axis of the classes in a band [K, C, B, R, P]


def band_rows(batch: int, size: tuple[int, int]) -> int:
  """Rows of a band."""
  return even(size[0], int(np.clip(BAND // (batch * size[1]), 4, max(4, size[0]))))


def even(length: int, most: int) -> int:
  """Side of the fewest parts of at most `most`: parts of 64 would compute 320 of 257 pixels, of 52 it is 260."""
  return -(-length // -(-length // most))


class Bands:
  """A `Coarse` cut into bands.

  Attributes:
    maps: what a scan goes over, a leading axis of bands.
    rows: of a band.
    side: columns of a block.
  """

  def __init__(self, coarse: Coarse):
    self.coarse = coarse
    self.rows, self.side = band_rows(len(coarse.semantic), coarse.size), even(coarse.size[1], COLUMNS)
    given = {"semantic": coarse.semantic, "detail": coarse.detail, "error": coarse.error}
    self.columns: dict[str, np.ndarray] = {}
    self.maps: dict[str, Any] = {}
    for (name, x), corners in zip(given.items(), coarse.align_corners, strict=True):
      if x is None:
        continue
      x = x[..., None] if name == "error" else x
      down, across = (
        Blocks.of(low, full, corners, step)
        for low, full, step in zip(x.shape[1:3], coarse.size, (self.rows, self.side), strict=True)
      )
      self.columns[name] = across.weight
      self.maps[name] = cut(x.astype(jnp.promote_types(x.dtype, jnp.float32)), down, across)
      self.maps[name + "_rows"] = down.weight

  def pixels(self, x: jax.Array, fill: int) -> jax.Array:
    """A full-size map in blocks."""
    return cut_pixels(x, self.rows, self.side, fill)

  def join(self, x: jax.Array) -> jax.Array:
    """Blocks as a full-size map."""
    return join_pixels(x, self.coarse.size)

  def full(self, maps: dict[str, jax.Array], prior: tuple) -> dict[str, Any]:
    """Full-size logits of one band: semantic and detail [K, C, B, R, P], error [K, B, R, P], None without.

    Args:
      maps: an element of `maps`.
      prior: (scale, offset) of the error branch.
    """
    coarse = self.coarse
    out: dict[str, Any] = {"semantic": None, "detail": None, "error": None}
    for name, columns in self.columns.items():
      out[name] = spread(maps[name], maps[name + "_rows"], jnp.asarray(columns))
    if coarse.residual and out["detail"] is not None:
      out["detail"] = out["semantic"] + out["detail"]
    if out["error"] is None:
      return out
    out["error"] = out["error"][:, 0]
    if coarse.prior == "msp":
      out["error"] += prior[0] * kept(doubt(out["semantic"])[0]) + prior[1]
    if coarse.prior == "detail":
      belief, own = out["detail"], out["semantic"].argmax(CLASS)
      if coarse.detail_weights:
        belief = belief - jnp.log(over_classes(coarse.detail_weights, belief.dtype))
      out["error"] += prior[0] * kept(disbelief(belief, own)) + prior[1]
    return out


def kept(x: jax.Array) -> jax.Array:
  """A number of each pixel of a band, which the backward pass need not compute again.

  The error branch's gradient wants nothing else of class maps, so none is made twice. The detail branch's makes them
  again in any case: its weights and denominators would be memory for little time.
  """
  return checkpoint_name(x, KEPT)


def over_classes(values: Any, dtype: Any) -> jax.Array:
  """[C] for a band [K, C, B, R, P]."""
  return jnp.asarray(values, dtype).reshape(1, -1, 1, 1, 1)


def is_class(labels: jax.Array, num_classes: int) -> jax.Array:
  """Integers [K, B, R, P] -> bool [K, C, B, R, P]; none where ignored."""
  classes = jnp.arange(num_classes).reshape(1, -1, 1, 1, 1)
  return jnp.expand_dims(labels, CLASS).astype(jnp.int32) == classes


def disbelief(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """`models.error_branch.disbelief_logit` of a band."""
  own = is_class(labels, logits.shape[CLASS])
  others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, logits), CLASS)
  return jnp.clip(others - jnp.where(own, logits, 0.0).sum(CLASS), -20.0, 20.0)


def doubt(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
  """`max_probability_logit` of a band, and its labels."""
  labels = logits.argmax(CLASS)
  return disbelief(logits, labels), labels


def error_sums(semantic: jax.Array, error: jax.Array, label: jax.Array, rho: float) -> dict[str, jax.Array]:
  """The error branch's sums of a band, by image."""
  z0, own = doubt(jax.lax.stop_gradient(semantic))
  valid = label != IGNORE
  wrong, hard = kept(valid & (own != label)), kept(-z0 > np.log(rho / (1 - rho)))
  loss = -jax.nn.log_sigmoid(jnp.where(wrong, error, -error))
  parts = {
    "easy": jnp.where(wrong & ~hard, loss, 0.0),
    "hard": jnp.where(wrong & hard, loss, 0.0),
    "correct": jnp.where(valid & ~wrong, loss, 0.0),
  }
  return {name: x.sum((0, 2, 3)) for name, x in parts.items()}


def wrong_counts(semantic: jax.Array, label: jax.Array) -> dict[str, jax.Array]:
  """Wrong and correct pixels of a band, by image."""
  valid = label != IGNORE
  wrong = valid & (semantic.argmax(CLASS) != label)
  parts = {"wrong_count": wrong, "correct_count": valid & ~wrong}
  return {name: x.sum((0, 2, 3), dtype=semantic.dtype) for name, x in parts.items()}


def detail_sums(
  full: dict[str, Any], label: jax.Array, terms: DetailTerms, confusion: jax.Array | None
) -> dict[str, jax.Array]:
  """The detail branch's sums of a band, by image."""
  logits = full["detail"]
  own = is_class(label, logits.shape[CLASS])
  weight = pixel_weights(full, label, own, terms)
  top = jax.lax.stop_gradient(logits.max(CLASS, keepdims=True))
  powers = jnp.exp(logits - top)
  denominator = powers.sum(CLASS, keepdims=True)
  total = jnp.squeeze(jnp.log(denominator) + top, CLASS)
  loss = jnp.where(label != IGNORE, total - jnp.where(own, logits, 0.0).sum(CLASS), 0.0)
  if terms.confusion is not None:
    loss = confusion_loss(logits, loss, own, terms.confusion, confusion)
  sums = {"detail": (weight * loss).sum((0, 2, 3)), "weight": weight.sum((0, 2, 3))}
  if terms.jaccard:
    p = powers / denominator
    mass = jnp.where(jnp.expand_dims(label != IGNORE, CLASS), p, 0.0)
    parts = {"overlap": jnp.where(own, p, 0.0), "mass": mass, "area": own}
    sums |= {name: x.sum((0, 3, 4), dtype=p.dtype).T for name, x in parts.items()}
  return sums


def pixel_weights(full: dict[str, Any], label: jax.Array, own: jax.Array, terms: DetailTerms) -> jax.Array:
  """What each pixel of a band counts, [K, B, R, P]; no gradient flows through it."""
  kind = full["detail"].dtype
  weight = (label != IGNORE).astype(kind)
  if terms.class_weights:
    weight = jnp.where(own, over_classes(terms.class_weights, kind), 0.0).sum(CLASS)
  if terms.weights == "all":
    return weight
  if terms.max_probability or full["error"] is None:
    logit = doubt(jax.lax.stop_gradient(full["semantic"]))[0]
  else:
    logit = calibrated(jax.lax.stop_gradient(full["error"]), terms.calibration.arrays())
  p = jax.nn.sigmoid(logit)
  return weight * ((p > terms.t) if terms.weights == "mask" else 1.0 + terms.k * p).astype(kind)


def confusion_loss(
  logits: jax.Array, loss: jax.Array, own: jax.Array, pixel: Any, matrix: jax.Array | None
) -> jax.Array:
  """`pixel_losses.Confusion` of a band, from its cross-entropy; `own`: the label's class."""
  if matrix is None:
    raise ValueError("the confusion loss needs a confusion matrix")
  matrix = jax.lax.stop_gradient(jnp.asarray(matrix, logits.dtype))
  one_hot = own.astype(logits.dtype)
  if pixel.diag == "confusion":
    loss = loss * (one_hot * over_classes(jnp.diagonal(matrix), logits.dtype)).sum(CLASS)
  if not pixel.strength:
    return loss
  highest = jax.lax.Precision.HIGHEST
  rate = jnp.einsum("kybrp,yc->kcbrp", one_hot, pixel.off_diagonal(matrix), precision=highest)
  return loss - pixel.strength * (rate * log_complement(logits)).sum(CLASS)


def log_complement(logits: jax.Array) -> jax.Array:
  """`pixel_losses.log_complement` of a band."""
  z = logits - jax.lax.stop_gradient(logits.max(CLASS, keepdims=True))
  largest = is_class(z.argmax(CLASS), z.shape[CLASS])
  total = jax.nn.logsumexp(z, CLASS, keepdims=True)
  others = jax.nn.logsumexp(jnp.where(largest, -jnp.inf, z), CLASS, keepdims=True)
  q = jnp.where(largest, 0.0, jnp.exp(z - total))
  return jnp.where(largest, others - total, jnp.log1p(-q))


def needed(coarse: Coarse, terms: Terms) -> Coarse:
  """Without the maps that nothing in `terms` asks for."""
  by_error = terms.detail is not None and terms.detail.weights != "all" and not terms.detail.max_probability
  error = terms.rho is not None or by_error
  detail = terms.detail is not None or (error and coarse.prior == "detail" and coarse.error is not None)
  return dataclasses.replace(
    coarse, error=coarse.error if error else None, detail=coarse.detail if detail else None
  )


def banded_sums(coarse: Coarse, label: jax.Array, terms: Terms, confusion: jax.Array | None = None) -> Sums:
  """`Sums` of a batch.

  Args:
    coarse: maps.
    label: uint8 [B, H, W].
    terms: what is wanted.
    confusion: [C, C] where the pixel loss wants it.
  """
  bands = Bands(needed(coarse, terms))
  prior = (coarse.prior_scale, coarse.prior_offset)

  @functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(KEPT))
  def band(maps, prior, confusion):
    full, labels = bands.full(maps, prior), maps["label"]
    sums: dict[str, jax.Array] = {}
    if terms.rho is not None or terms.wrong:
      sums |= wrong_counts(full["semantic"], labels)
    if terms.rho is not None:
      sums |= error_sums(full["semantic"], full["error"], labels, terms.rho)
    if terms.detail is not None:
      sums |= detail_sums(full, labels, terms.detail, confusion)
    return sums

  maps = bands.maps | {"label": bands.pixels(label, IGNORE)}
  sums = jax.lax.map(lambda maps: band(maps, prior, confusion), maps)
  return Sums(**{name: x.sum(0) for name, x in sums.items()})


def banded_labels(
  coarse: Coarse, fusion: str, choice: dict[str, jax.Array], weights: tuple[float, ...] = ()
) -> Labels:
  """`Labels` of a batch.

  Args:
    coarse: maps.
    fusion: one of FUSIONS.
    choice: arrays of an `inference.choice.Choice`.
    weights: class weights of the detail branch's loss, of which choice["unweight"] is taken out of its logits.
  """
  bands = Bands(coarse)
  prior = (coarse.prior_scale, coarse.prior_offset)

  def band(maps):
    full = bands.full(maps, prior)
    semantic, detail = full["semantic"], full["detail"]
    if detail is None:
      detail = semantic
    elif weights:
      detail = detail - choice["unweight"] * jnp.log(over_classes(weights, detail.dtype))
    alone = full["error"] is None
    logit = doubt(semantic / choice["temperature"])[0] if alone else calibrated(full["error"], choice)
    error = jax.nn.sigmoid(logit)
    share = detail_share(error, "semantic" if coarse.detail is None else fusion, choice["threshold"])
    share = jnp.expand_dims(share, CLASS)
    fused = share * jax.nn.softmax(detail, CLASS) + (1 - share) * jax.nn.softmax(semantic, CLASS)
    fused_labels, semantic_labels, detail_labels = (
      x.argmax(CLASS).astype(jnp.uint8) for x in (fused, semantic, detail)
    )
    confidence = fused.max(CLASS).astype(jnp.float32)
    return Labels(fused_labels, semantic_labels, detail_labels, error.astype(jnp.float32), confidence)

  return jax.tree.map(bands.join, jax.lax.map(band, bands.maps))


def counted(
  outputs: Outputs, label: jax.Array, count: Callable[[Outputs, jax.Array], tuple[Any, Any]]
) -> tuple[Any, Any]:
  """`count` of a forward pass, of one band at a time.

  Args:
    outputs: with `coarse`.
    label: uint8 [B, H, W].
    count: (outputs of some rows, their labels; `IGNORE` where a band goes beyond the image) -> (arrays that are added
      up over the bands, maps [B, rows, columns] of them).

  Returns:
    The sums, and the maps, [B, H, W].
  """
  coarse = outputs.coarse
  assert coarse is not None
  bands = Bands(coarse)
  prior = (coarse.prior_scale, coarse.prior_offset)

  def band(maps):
    full = {name: rows_of(x) for name, x in bands.full(maps, prior).items()}
    guide = None if outputs.presence is None else outputs.presence[:, None, None]
    base = None if outputs.base is None or guide is None else full["semantic"] - guide
    return count(Outputs(**full, base=base), rows_of(maps["label"]))

  maps = bands.maps | {"label": bands.pixels(label, IGNORE)}
  first = jax.tree.map(lambda x: x[0], maps)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(band, first)[0])

  def step(sums, maps):
    more, told = band(maps)
    return jax.tree.map(jnp.add, sums, more), told

  sums, told = jax.lax.scan(step, zeros, maps)
  height, width = coarse.size
  return sums, jax.tree.map(lambda x: joined_rows(x)[:, :height, :width], told)


def rows_of(x: Any) -> Any:
  """A band [K, B, R, P] as rows [B, R, K P], or [K, C, B, R, P] as [B, R, K P, C]."""
  if x is None:
    return None
  x = x.transpose(1, 2, 0, 3) if x.ndim == 4 else x.transpose(2, 3, 0, 4, 1)
  return x.reshape(*x.shape[:2], -1, *x.shape[4:])


def joined_rows(x: jax.Array) -> jax.Array:
  """Rows of all bands [bands, B, R, W] -> [B, bands R, W]."""
  return jnp.swapaxes(x, 0, 1).reshape(x.shape[1], -1, x.shape[3])


def detail_share(error: jax.Array, fusion: str, threshold: jax.Array) -> jax.Array:
  """Weight of P_db, as `models.fusion.detail_share` has it, from calibrated P_ep."""
  if fusion == "mask":
    return (error > threshold).astype(error.dtype)
  if fusion == "soft":
    return error
  return jnp.full_like(error, {"semantic": 0.0, "mean": 0.5, "detail": 1.0}[fusion])
