import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax.models.resize import by_phases, resize


def image(*shape, seed=0):
  return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize(
  ("row", "size", "align_corners", "want"),
  [
    # Half-pixel: output pixel i looks at (i + 0.5) / 2 - 0.5 = -0.25, 0.25, 0.75, 1.25, clamped.
    ([0, 4], 4, False, [0, 1, 3, 4]),
    ([0, 4], 4, True, [0, 4 / 3, 8 / 3, 4]),
    ([0, 4, 8], 5, True, [0, 2, 4, 6, 8]),
    # No antialiasing: centres 0.5 and 2.5 of four pixels.
    ([0, 4, 100, 8], 2, False, [2, 54]),
    ([0, 4, 100, 8], 2, True, [0, 8]),
    ([3, 5], 1, True, [3]),
    ([7], 3, True, [7, 7, 7]),
  ],
)
@pytest.mark.parametrize("axis", [1, 2])
def test_resize_in_one_dimension(row, size, align_corners, want, axis):
  x = jnp.array(row, jnp.float32).reshape((1, -1, 1, 1) if axis == 1 else (1, 1, -1, 1))
  shape = (size, 1) if axis == 1 else (1, size)
  got = resize(x, shape, align_corners)
  np.testing.assert_allclose(np.ravel(got), want, atol=1e-5)


def test_resize_to_the_same_size_is_the_identity():
  x = image(2, 5, 7, 3)
  np.testing.assert_array_equal(resize(x, (5, 7)), x)


@pytest.mark.parametrize("size", [(10, 21), (5, 28), (20, 7)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_whole_factors_by_phases_are_what_the_matrices_give(size, dtype):
  x = image(2, 5, 7, 3).astype(dtype)

  def native(x):
    return jax.image.resize(x, (2, *size, 3), "bilinear", antialias=False)

  @jax.jit
  def run(x):
    """(output, gradient of a function of it) of either form."""
    forms = (lambda x: by_phases(x, (size[0] // 5, size[1] // 7)), native)
    return [(f(x), jax.grad(lambda x, f=f: jnp.sin(f(x).astype(jnp.float32)).sum())(x)) for f in forms]

  (got, slope), (_, want_slope) = run(x)
  assert got.dtype == x.dtype
  exact = jax.image.resize(x.astype(jnp.float32), (2, *size, 3), "bilinear", antialias=False)
  rounding = 3e-6 if dtype == "float32" else 8e-3  # half a step of bfloat16, where values reach 2 to 4
  np.testing.assert_allclose(got.astype(jnp.float32), exact, atol=rounding)
  if dtype == "float32":
    np.testing.assert_allclose(slope, want_slope, atol=1e-5)


def test_a_pixel_grows_to_a_whole_map():
  x = image(2, 1, 1, 3)
  np.testing.assert_allclose(resize(x, (40, 3)), jnp.broadcast_to(x, (2, 40, 3, 3)), atol=1e-6)
