"""The kernels lower for TPU and GPU on a machine without either; kernels that these refuse do not."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from errseg_jax.inference.choice import Choice
from errseg_jax.kernels import DetailTerms, Terms
from errseg_jax.kernels.calls import TILES, params
from errseg_jax.kernels.layout import layout
from errseg_jax.kernels.pallas_labels import pallas_labels
from errseg_jax.kernels.pallas_loss import pallas_sums
from errseg_jax.pixel_losses import Confusion

PLATFORMS = [("tpu", "tpu", "tpu_custom_call"), ("cuda", "gpu", "triton")]
"""jax's name, ours, and what the program of a kernel says."""


def lowered(function, platform, *arrays):
  """The program that a function lowers to."""
  return jax.jit(function).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(("platform", "own", "mark"), PLATFORMS)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("num_classes", [2, 19, 150])
def test_loss_and_gradient_lower(kit, confusion, platform, own, mark, num_classes, align_corners):
  pixel = Confusion() if num_classes == 2 else DetailTerms().pixel
  terms = Terms(rho=0.95, detail=DetailTerms("soft", jaccard=True, pixel=pixel))
  coarse, label = kit.make_maps(num_classes, (3, 130), align_corners=align_corners)
  cells = layout(coarse, TILES[own])

  def loss(coarse, label):
    sums = pallas_sums(coarse, label, terms, cells, own, confusion(num_classes))
    return sums.error_loss(1.0, 1.5, None, 0.001) + sums.detail_loss(2.0)

  assert lowered(jax.value_and_grad(loss), platform, coarse, label).lower().count(mark) >= 2


@pytest.mark.parametrize(("platform", "own", "mark"), PLATFORMS)
@pytest.mark.parametrize(("num_classes", "finer"), [(19, 1), (19, 2), (150, 1)])
def test_labels_lower(kit, platform, own, mark, num_classes, finer):
  coarse, _ = kit.make_maps(num_classes, (3, 130), finer=finer)
  cells, choice = layout(coarse, TILES[own]), Choice().arrays()

  def labels(coarse):
    return pallas_labels(coarse, "mask", choice, (), cells, own)

  assert mark in lowered(labels, platform, coarse).lower()


def bad_tpu(x, out):
  """A block whose rows are no multiple of 8, and not all of them."""
  out[...] = x[...]


def bad_gpu(x, out):
  """A tile whose side is no power of two."""
  out[...] = jnp.exp(x[...])


@pytest.mark.parametrize(
  ("platform", "own", "kernel", "shape", "block"),
  [("tpu", "tpu", bad_tpu, (10, 128), (5, 128)), ("cuda", "gpu", bad_gpu, (38, 128), (19, 128))],
)
def test_a_kernel_of_a_wrong_shape_does_not_lower(platform, own, kernel, shape, block):
  spec = pl.BlockSpec(block, lambda i: (i, 0))
  call = pl.pallas_call(
    kernel,
    grid=(2,),
    in_specs=[spec],
    out_specs=spec,
    out_shape=jax.ShapeDtypeStruct(shape, jnp.float32),
    compiler_params=params(own),
  )
  with pytest.raises(Exception, match=r"power of 2|divisible|block"):
    lowered(call, platform, jnp.zeros(shape))
