import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from errseg_jax.models.pooling import max_pool


def image(*shape, seed=0):
  return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("size", [(8, 9), (45, 61)])
def test_shifted_max_pool_is_the_windowed_one(stride, symmetric, size):
  x = image(2, *size, 3)
  padding = ((1, 1), (1, 1)) if symmetric else "SAME"

  def native(x):
    return nn.max_pool(x, (3, 3), (stride, stride), padding)

  def ours(x):
    return max_pool(x, stride, symmetric)

  @jax.jit
  def run(x):
    return [(f(x), jax.grad(lambda x, f=f: jnp.sin(f(x)).sum())(x)) for f in (ours, native)]

  (got, got_slope), (want, want_slope) = run(x)
  assert got.shape[1:3] == tuple(-(-n // stride) for n in size)
  np.testing.assert_array_equal(got, want)
  np.testing.assert_allclose(got_slope, want_slope, atol=1e-6)


@pytest.mark.parametrize(("stride", "won"), [(1, 9), (2, 2)])
def test_pixels_equally_large_share_the_gradient_of_their_window(stride, won):
  x = jnp.zeros((1, 7, 8, 2)).at[0, 3, 3].set(1.0)
  slope = jax.grad(lambda x: max_pool(x, stride).sum())(x)
  windows = 2 * -(-7 // stride) * (8 // stride)  # of both channels
  np.testing.assert_allclose(slope.sum(), windows, rtol=1e-6)
  np.testing.assert_allclose(
    slope[0, 3, 3], won, rtol=1e-6
  )  # the windows that hold the one pixel that is larger
  assert (slope >= 0).all()
