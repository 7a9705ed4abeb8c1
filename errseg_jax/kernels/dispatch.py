"""Which form of a fused operation runs: a Pallas kernel where it applies, else bands; or the reference."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, UInt8

from errseg_jax.kernels.banded import banded_labels, banded_sums, counted, needed
from errseg_jax.kernels.body import UNROLLED
from errseg_jax.kernels.calls import TILES
from errseg_jax.kernels.layout import Layout, layout
from errseg_jax.kernels.pallas_labels import pallas_labels
from errseg_jax.kernels.pallas_loss import pallas_sums, wanted_maps
from errseg_jax.kernels.terms import FUSIONS, Labels, Sums, Terms
from errseg_jax.sharding import BATCH, REPLICATED, make_mesh
from errseg_jax.structs import Coarse, Outputs

CHOICES = ("auto", "pallas", "banded", "reference")
"""What `config.kernels` may be; "auto": Pallas on TPU and GPU where it applies, else bands."""
PLATFORMS = {"tpu": "tpu", "gpu": "gpu", "cuda": "gpu"}

log = logging.getLogger("errseg")


def fused_sums(
  coarse: Coarse | None,
  label: UInt8[Array, "B H W"],
  terms: Terms,
  confusion: Float[Array, "C C"] | None = None,
) -> Sums | None:
  """`Sums` of a batch; None where the reference has to compute them.

  Args:
    coarse: maps; None where the network's full-size logits are more than these interpolated.
    label: uint8 [B, H, W].
    terms: what is wanted.
    confusion: [C, C] where the pixel loss wants it.
  """
  if coarse is None or coarse.kernels == "reference":
    return None
  if reason := terms.unsupported():
    told("loss", "reference", reason)
    return None
  coarse = needed(coarse, terms)
  platform = platform_of(coarse)
  found = loss_layout(coarse, terms, platform) if platform else "no TPU or GPU"
  if isinstance(found, str):
    told("loss", "banded", found)
    return banded_sums(coarse, label, terms, confusion)
  told("loss", "pallas", "")

  def run(coarse, label, confusion):
    return pallas_sums(coarse, label, terms, own_layout(coarse, platform), platform, confusion)

  return over_devices(run, coarse, (label,), (confusion,))


def fused_labels(
  coarse: Coarse | None,
  fusion: str,
  choice: dict[str, Float[Array, "..."]],
  weights: tuple[float, ...] = (),
) -> Labels | None:
  """`Labels` of a batch; None where the reference has to compute them. Arguments as of `banded.banded_labels`."""
  if coarse is None or coarse.kernels == "reference":
    return None
  if fusion not in FUSIONS:
    told("labels", "reference", f"fusion {fusion!r}")
    return None
  platform = platform_of(coarse)
  found = labels_layout(coarse, choice, platform) if platform else "no TPU or GPU"
  if isinstance(found, str):
    told("labels", "banded", found)
    return banded_labels(coarse, fusion, choice, weights)
  told("labels", "pallas", "")

  def run(coarse, choice):
    return pallas_labels(coarse, fusion, choice, weights, own_layout(coarse, platform), platform)

  return over_devices(run, coarse, (), (choice,))


def fused_counts(
  outputs: Outputs, label: UInt8[Array, "B H W"], count: Callable[[Outputs, jax.Array], tuple[Any, Any]]
) -> tuple[Any, Any] | None:
  """`banded.counted` of a forward pass; None where the reference has to count, from the whole maps."""
  if outputs.coarse is None:
    return None
  told("counts", "banded", "")
  return counted(outputs, label, count)


def platform_of(coarse: Coarse) -> str:
  """Whose kernel may run, "" for none; asked for by name, the interpreter of the CPU, for tests."""
  platform = PLATFORMS.get(jax.default_backend(), "")
  if coarse.kernels == "banded":
    return ""
  return platform or ("interpret" if coarse.kernels == "pallas" else "")


def loss_layout(coarse: Coarse, terms: Terms, platform: str) -> Layout | str:
  """The layout for the loss's kernels, or why they do not apply."""
  detail, trained = terms.detail, wanted_maps(coarse, terms)
  if detail is not None and detail.calibration.knots:
    return "a calibration by knots"
  if detail is not None and detail.confusion is not None and coarse.semantic.shape[-1] > UNROLLED:
    return f"a confusion loss of more than {UNROLLED} classes"
  if terms.rho is not None and coarse.prior != "none" and {"segmenter", "detail"} & {*coarse.trained}:
    return "an error branch whose prior is trained"
  found = common_layout(coarse, platform)
  if isinstance(found, str):
    return found
  if finer := [name for name, down, _ in found.taps if down.step > 1 and name in trained]:
    # Each of their pixels is a neighbour of several cells: what those give it would fill a full-size map.
    return f"{finer[0]} logits finer than the semantic ones are trained"
  return found


def labels_layout(coarse: Coarse, choice: dict[str, jax.Array], platform: str) -> Layout | str:
  """The layout for the labels' kernel, or why it does not apply."""
  return "a calibration by knots" if "knots" in choice else common_layout(coarse, platform)


def common_layout(coarse: Coarse, platform: str) -> Layout | str:
  """The layout of maps, or why there is none."""
  if coarse.semantic.dtype == jnp.float64:
    return "float64"
  return layout(coarse, TILES[platform])


def own_layout(coarse: Coarse, platform: str) -> Layout:
  """The layout of a device's part of maps that have one."""
  found = layout(coarse, TILES[platform])
  assert isinstance(found, Layout)
  return found


def over_devices(
  function: Callable[..., Any], coarse: Coarse, batched: tuple[Any, ...], shared: tuple[Any, ...]
) -> Any:
  """function(coarse, *batched, *shared) on each device's part of the batch: a kernel does not split by itself.

  A batch that the devices do not divide is computed by each of them.
  """
  mesh = make_mesh(coarse.num_devices)
  if mesh.size == 1:
    return function(coarse, *batched, *shared)
  batch = BATCH if len(coarse.semantic) % mesh.size == 0 else REPLICATED

  def spec(x: Any) -> PartitionSpec:
    return REPLICATED if jnp.ndim(x) == 0 else batch

  specs = (
    jax.tree.map(spec, coarse),
    *(jax.tree.map(lambda _: batch, x) for x in batched),
    *(jax.tree.map(lambda _: REPLICATED, x) for x in shared),
  )
  split = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=batch, check_vma=False)
  return split(coarse, *batched, *shared)


@functools.cache
def told(what: str, form: str, reason: str) -> None:
  """Says once which form runs and why."""
  log.info("fused %s: %s%s", what, form, f" ({reason})" if reason else "")
