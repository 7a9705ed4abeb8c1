"""Labels, calibrated P_ep and confidence at full size from low-resolution logits, as a Pallas kernel."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from errseg_jax.kernels.body import CLIP, TINY, kept, largest, total
from errseg_jax.kernels.calls import Arrays, call, class_rows, scalars
from errseg_jax.kernels.layout import LANES, Layout
from errseg_jax.kernels.terms import Labels
from errseg_jax.kernels.tile import Tile
from errseg_jax.structs import Coarse

KINDS = {
  "labels": jnp.uint8,
  "semantic_labels": jnp.uint8,
  "detail_labels": jnp.uint8,
  "error_probability": jnp.float32,
  "confidence": jnp.float32,
}


def error_probability(tile: Tile) -> jax.Array:
  """Calibrated P_ep; without an error branch 1 - max P_sb at the chosen temperature."""
  if tile.coarse.error is not None:
    return tile.error_probability
  (top, label), semantic, temperature = tile.semantic_top, tile.semantic, tile.scalar("temperature")
  others = total(lambda c: semantic(c) / temperature, tile.num_classes, top / temperature, label)
  return jax.nn.sigmoid(jnp.clip(jnp.log(jnp.maximum(others, TINY)), -CLIP, CLIP))


def share_of(tile: Tile, fusion: str, p: jax.Array) -> jax.Array:
  """Weight of P_db."""
  if fusion == "mask":
    return jnp.where(p > tile.scalar("threshold"), 1.0, 0.0)
  if fusion == "soft":
    return p
  return jnp.full(p.shape, {"semantic": 0.0, "mean": 0.5, "detail": 1.0}[fusion], jnp.float32)


def pixel_labels(tile: Tile, fusion: str) -> dict[str, jax.Array]:
  """What KINDS names, of one phase."""
  n, semantic, (top, label) = tile.num_classes, tile.semantic, tile.semantic_top
  p = error_probability(tile)
  scale = 1.0 / total(semantic, n, top)
  out = {"error_probability": p, "semantic_labels": label, "detail_labels": label, "labels": label}
  if tile.coarse.detail is None:
    return out | {"confidence": scale}
  raw, shift = tile.detail, tile.of_class("unweight")
  detail = kept(lambda c: raw(c) - shift(c), n)
  detail_top, out["detail_labels"] = largest(detail, n)
  detail_scale, share = 1.0 / total(detail, n, detail_top), share_of(tile, fusion, p)

  def fused(c):
    of_detail = share * jnp.exp(detail(c) - detail_top) * detail_scale
    return of_detail + (1.0 - share) * jnp.exp(semantic(c) - top) * scale

  out["confidence"], out["labels"] = largest(fused, n)
  return out


def labels_kernel(refs: dict[Any, Any], layout: Layout, coarse: Coarse, fusion: str) -> None:
  """Writes KINDS, each [1, phases, 1, r, 128]."""

  def phase(f, carry):
    for name, x in pixel_labels(Tile(refs, layout, coarse, f), fusion).items():
      refs[name][0, f, 0] = jnp.broadcast_to(x, (layout.tile, LANES)).astype(KINDS[name])
    return carry

  jax.lax.fori_loop(0, layout.phases, phase, 0)


def pallas_labels(
  coarse: Coarse,
  fusion: str,
  choice: dict[str, jax.Array],
  weights: tuple[float, ...],
  layout: Layout,
  platform: str,
) -> Labels:
  """`Labels` of a batch, as `banded.banded_labels`.

  Args:
    coarse: maps.
    fusion: one of `terms.FUSIONS`.
    choice: arrays of an `inference.choice.Choice`, without knots.
    weights: class weights of the detail branch's loss.
    layout: of `layout.layout`.
    platform: "tpu", "gpu" or "interpret".
  """
  classes = class_rows(coarse, weights, choice["unweight"])
  arrays = Arrays.of(coarse, layout, scalars=scalars(coarse, choice), classes=classes)
  shape = (layout.batch, layout.phases, layout.rows.cells, layout.width, LANES)
  kernel = functools.partial(labels_kernel, layout=layout, coarse=coarse, fusion=fusion)
  out = call(kernel, arrays, {}, dict.fromkeys(KINDS, shape), layout, platform, KINDS)
  return Labels(**{name: layout.full(x) for name, x in out.items()})
