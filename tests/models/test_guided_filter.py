"""The guided filter against window sums written out in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from numpy.lib.stride_tricks import sliding_window_view

from errseg_jax.models.guided_filter import (
  box_mean,
  doubled_sums,
  enlarge,
  filter_of,
  guided_filter,
  running_sums,
  shrink,
)

MODES = {"count": "constant", "reflect": "symmetric"}


def direct_mean(x, radius, border):
  """Window by window, [B, H, W, C]."""

  def sums(v):
    for axis in (1, 2):
      pads = [(radius, radius) if i == axis else (0, 0) for i in range(4)]
      v = sliding_window_view(np.pad(v, pads, mode=MODES[border]), 2 * radius + 1, axis).sum(-1)
    return v

  return sums(x) / (sums(np.ones_like(x)) if border == "count" else (2 * radius + 1) ** 2)


def direct_filter(guide, x, radius, eps, border):
  """Eq. 19 to 21 in float64."""
  guide, x = np.float64(guide), np.float64(x)
  mean = functools.partial(direct_mean, radius=radius, border=border)
  mean_guide, mean_x = mean(guide), mean(x)
  squares = np.stack([mean(guide * guide[..., i : i + 1]) for i in range(3)], -1)
  sigma = squares - mean_guide[..., :, None] * mean_guide[..., None, :]
  products = np.stack([mean(x * guide[..., i : i + 1]) for i in range(3)], -2)
  a = np.linalg.solve(sigma + eps * np.eye(3), products - mean_guide[..., None] * mean_x[..., None, :])
  b = mean_x - np.einsum("bhwic,bhwi->bhwc", a, mean_guide)
  a = np.stack([mean(a[..., i, :]) for i in range(3)], -2)
  return np.einsum("bhwic,bhwi->bhwc", a, guide) + mean(b)


def blocks(rng, height=33, width=38):
  """A noisy image of blocks, 0..255, as float32 [2, H, W, 3]."""
  colours = rng.integers(0, 256, (2, 4, 4, 3))
  image = colours.repeat(-(-height // 4), 1).repeat(-(-width // 4), 2)[:, :height, :width]
  return (image + rng.normal(0, 8, image.shape)).clip(0, 255).astype(np.float32)


@pytest.fixture(scope="module")
def pair():
  rng = np.random.default_rng(0)
  guide = blocks(rng)
  x = rng.random((*guide.shape[:3], 5)) + (guide[..., :1] > 100)
  return guide, (x / 2).astype(np.float32)


@pytest.mark.parametrize("border", MODES)
@pytest.mark.parametrize("radius", [1, 4, 30, 100])
def test_it_is_the_filter_of_direct_window_sums(pair, radius, border):
  """Radius 100 is larger than the image, 30 than half of it."""
  got = jax.jit(lambda g, x: guided_filter(g, x, radius, 10.0, border))(*pair)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, direct_filter(*pair, radius, 10.0, border), atol=1e-4)


@pytest.mark.parametrize("border", MODES)
@pytest.mark.parametrize("radius", [0, 1, 4, 30])
@pytest.mark.parametrize("shape", [(1, 1, 9, 2), (2, 6, 1, 1), (1, 7, 5, 3)])
def test_windows_of_small_images(shape, radius, border):
  x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
  np.testing.assert_allclose(box_mean(x, radius, border), direct_mean(x, radius, border), atol=1e-5)


def test_an_unknown_border_is_refused(pair):
  with pytest.raises(ValueError, match="count, reflect"):
    guided_filter(*pair, 2, 1.0, "mirror")


@pytest.mark.parametrize("sums", [running_sums, doubled_sums])
@pytest.mark.parametrize(("width", "axis"), [(1, 1), (3, 2), (8, 1), (13, 2)])
def test_both_forms_of_window_sums(sums, width, axis):
  x = np.random.default_rng(2).normal(size=(2, 17, 19, 3)).astype(np.float32)
  want = sliding_window_view(x, width, axis).sum(-1)
  np.testing.assert_allclose(sums(x, width, axis), want.take(range(1, want.shape[axis]), axis), atol=1e-5)


@pytest.mark.parametrize("sums", [running_sums, doubled_sums])
def test_sums_do_not_drift_along_a_row(sums):
  """Large numbers and thousands of additions; without the carried rounding the error grows tenfold."""
  x = np.random.default_rng(3).uniform(0, 65025, (1, 1, 20_000, 1))
  x = (np.round(64 * x) / 64).astype(np.float32)  # differences are exact, sums are not
  want = sliding_window_view(x[0, 0, :, 0].astype(np.float64), 61).sum(-1)[1:]
  got = np.asarray(jax.jit(lambda v: sums(v, 61, 2))(x))[0, 0, :, 0]
  assert np.abs(got - want).max() < 4 * np.spacing(np.float32(want.max()))


@pytest.mark.parametrize("border", MODES)
def test_the_gradient_is_that_of_finite_differences(border):
  rng = np.random.default_rng(4)
  with jax.enable_x64(True):
    guide, x = jnp.array(rng.random((1, 5, 6, 3))), jnp.array(rng.random((1, 5, 6, 2)))
    fast = border == "reflect"
    run = jax.jit(functools.partial(guided_filter, radius=2, border=border, subsample=1 + fast))
    assert run(guide, x, eps=0.1).dtype == jnp.float64
    check_grads(lambda guide, x, eps: run(guide, x, eps=eps), (guide, x, 0.1), 1, ["rev"])


def test_any_input_is_filtered_in_float32(pair):
  guide, x = np.uint8(pair[0]), jnp.asarray(pair[1], jnp.bfloat16)
  run = jax.jit(lambda g, x: guided_filter(g, x, 3, 10.0))
  got = run(guide, x)
  assert got.dtype == jnp.float32
  want = run(np.float32(guide), x.astype(jnp.float32))
  np.testing.assert_allclose(got, want, atol=1e-5)  # two programs, rounded apart; bfloat16 is 4e-3 off


def test_channels_are_filtered_each_on_its_own_and_sums_stay(pair):
  run = jax.jit(filter_of(pair[0], 4, 10.0))
  probabilities = jax.nn.softmax(5 * pair[1])
  got = run(probabilities)
  np.testing.assert_allclose(got[..., 2:3], run(probabilities[..., 2:3]), atol=1e-5)
  np.testing.assert_allclose(got.sum(-1), 1, atol=1e-4)


@pytest.mark.parametrize("subsample", [2, 3, 4])
def test_the_fast_form_keeps_what_is_linear_in_the_guide(pair, subsample):
  guide = pair[0]
  x = guide @ np.array([[1.0], [-0.5], [0.25]], np.float32) / 255 + 0.3
  got = jax.jit(lambda g, x: guided_filter(g, x, 8, 1e-3, "count", subsample))(guide, x)
  np.testing.assert_allclose(got, x, atol=2e-3)


def test_the_fast_form_is_close_to_the_whole_one():
  rng = np.random.default_rng(5)
  guide = np.kron(rng.integers(0, 256, (1, 3, 3, 3)), np.ones((1, 16, 16, 1))).astype(np.float32)
  x = np.float32((guide[..., :1] > 128) + rng.normal(0, 0.3, (1, 48, 48, 1)))
  whole, fast = (
    jax.jit(lambda g, x, s=s: guided_filter(g, x, 12, 10.0, "count", s))(guide, x) for s in (1, 4)
  )
  assert np.abs(np.asarray(whole - fast)).mean() < 0.02
  assert np.abs(np.asarray(whole) - x).mean() > 0.2


@pytest.mark.parametrize("size", [(8, 12), (9, 13), (3, 2)])
def test_enlarging_is_linear_between_centres_of_blocks(size):
  row, column = np.mgrid[: size[0], : size[1]].astype(np.float32)
  x = np.stack([np.ones(size), row, column], -1)[None].astype(np.float32)
  back = np.asarray(enlarge(shrink(x, 4), 4, size))
  assert back.shape == x.shape
  np.testing.assert_allclose(back[..., 0], 1)
  inner = (slice(0, 1), slice(2, size[0] // 4 * 4 - 2), slice(2, size[1] // 4 * 4 - 2))
  np.testing.assert_allclose(back[inner], x[inner], atol=1e-5)
