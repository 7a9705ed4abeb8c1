"""Maps of a network whose logits are interpolated from them, and what the library computes from full-size logits."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax.losses import ErrorLoss
from errseg_jax.models.error_branch import disbelief_logit, max_probability_logit, unweighted
from errseg_jax.models.resize import resize
from errseg_jax.structs import Coarse, Outputs

TRAINED = ("error", "detail")


def pixels(low, scale, align_corners):
  """Length of a map `scale` times as fine."""
  return scale * (low - 1) + 1 if align_corners else scale * low


def make_maps(num_classes=3, low=(2, 3), scale=4, align_corners=False, batch=2, finer=1, seed=0, **fields):
  """A Coarse of random maps, detail logits `finer` times as fine as the others, and labels."""
  rng = np.random.default_rng(seed)
  size = tuple(pixels(n, scale, align_corners) for n in low)
  fine = tuple(pixels(n, finer, align_corners) for n in low)

  def normal(*shape):
    return jnp.array(rng.normal(0, 2, shape), jnp.float32)

  maps = (normal(batch, *low, num_classes), normal(batch, *fine, num_classes), normal(batch, *low))
  label = rng.integers(0, num_classes, (batch, *size)).astype(np.uint8)
  label[:, 0], label[0, -1, :3] = 255, 255
  prior = (jnp.float32(0.7), jnp.float32(-0.3)) if fields.get("prior", "none") != "none" else ()
  fields = {"trained": TRAINED, "kernels": "pallas"} | fields
  coarse = Coarse(*maps, *prior, size=size, align_corners=(align_corners,) * 3, **fields)
  return coarse, jnp.array(label)


def full_size(coarse):
  """Outputs at the labels' size, by `resize`."""

  def at(x, name):
    corners = coarse.align_corners[("semantic", "detail", "error").index(name)]
    return resize(x.astype(jnp.float32), coarse.size, corners)

  semantic = at(coarse.semantic, "semantic")
  detail = at(coarse.detail, "detail")
  if coarse.residual:
    detail = semantic + detail
  error = at(coarse.error[..., None], "error")[..., 0]
  if coarse.prior == "msp":
    error = coarse.prior_scale * max_probability_logit(semantic) + coarse.prior_offset + error
  if coarse.prior == "detail":
    belief = unweighted(detail, coarse.detail_weights)
    z0 = disbelief_logit(belief, semantic.argmax(-1))
    error = coarse.prior_scale * z0 + coarse.prior_offset + error
  return Outputs(semantic, error, detail)


def value_and_slopes(loss, coarse, label, confusion=None, fused=True):
  """The loss and its gradient by detail and error logits, from low-resolution maps or full-size logits."""

  def function(maps):
    own = coarse.replace(**maps)
    outputs = Outputs(None, None, None, coarse=own) if fused else full_size(own)
    if isinstance(loss, ErrorLoss):
      return loss(outputs, label)
    return loss(outputs, label, confusion)

  names = ["error", "prior_scale", "prior_offset"] if isinstance(loss, ErrorLoss) else ["detail"]
  maps = {name: getattr(coarse, name) for name in names if getattr(coarse, name) is not None}
  return jax.jit(jax.value_and_grad(function))(maps)


def assert_close(got, want, value=1e-5, slope=1e-4):
  """Values relative to themselves, gradients to the largest of their map; NaN is close to nothing.

  Args:
    got: (value, slopes).
    want: (value, slopes).
    value: tolerance of values.
    slope: of gradients.
  """
  assert np.isfinite(got[0])
  np.testing.assert_allclose(got[0], want[0], rtol=value)
  for name, x in want[1].items():
    own, x = np.asarray(got[1][name], np.float64), np.asarray(x, np.float64)
    assert np.isfinite(own).all(), f"gradient by {name}"
    assert np.isfinite(x).all(), f"reference gradient by {name}"
    assert np.abs(own - x).max() <= slope * np.abs(x).max() + 1e-12, f"gradient by {name}"


@pytest.fixture(scope="session")
def confusion():
  """num_classes -> a row-normalised matrix."""

  def make(num_classes):
    counts = np.random.default_rng(1).random((num_classes, num_classes)).astype(np.float32)
    return jnp.array(counts / counts.sum(1, keepdims=True))

  return make


@pytest.fixture(scope="session")
def kit():
  """The functions of this file."""
  return types.SimpleNamespace(
    pixels=pixels,
    make_maps=make_maps,
    full_size=full_size,
    value_and_slopes=value_and_slopes,
    assert_close=assert_close,
  )
