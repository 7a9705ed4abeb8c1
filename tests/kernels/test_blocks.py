import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax.kernels import banded, blocks, cells
from errseg_jax.models.resize import resize


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
  ("low", "size"), [((3, 5), (12, 20)), ((9, 5), (25, 18)), ((1, 7), (4, 6)), ((6, 4), (1, 4))]
)
def test_blocks_interpolate_as_resize_does(low, size, align_corners):
  x = jnp.array(np.random.default_rng(0).normal(size=(2, *low, 3)), jnp.float32)
  down, across = (blocks.Blocks.of(n, m, align_corners, b) for n, m, b in zip(low, size, (4, 8), strict=True))
  parts = [
    blocks.spread(part, jnp.array(rows), jnp.array(across.weight))
    for part, rows in zip(blocks.cut(x, down, across), down.weight, strict=True)
  ]
  stack = jnp.stack(parts)  # [bands, K, C, B, R, P]
  for c in range(3):
    got = blocks.join_pixels(stack[:, :, c], size)
    np.testing.assert_allclose(got, resize(x, size, align_corners)[..., c], rtol=1e-5, atol=1e-5)


def test_pixels_cut_and_joined_are_the_map():
  x = jnp.arange(2 * 9 * 13).reshape(2, 9, 13)
  np.testing.assert_array_equal(blocks.join_pixels(blocks.cut_pixels(x, 4, 8, 255), (9, 13)), x)


def test_bands_and_blocks_share_an_image_evenly():
  """Crops are often one pixel more than a power of two: full blocks and one of a pixel would be a third too much."""
  for side in (33, 65, 129, 257, 321, 513, 769):
    rows, columns = banded.band_rows(4, (side, side)), banded.even(side, banded.COLUMNS)
    assert columns <= banded.COLUMNS
    assert -(-side // rows) * rows * -(-side // columns) * columns <= 1.1 * side**2


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("scale", range(1, 9))
@pytest.mark.parametrize("finer", [1, 2])
def test_cells_interpolate_as_resize_does(kit, scale, align_corners, finer):
  low = 5
  full, own = kit.pixels(low, scale, align_corners), kit.pixels(low, finer, align_corners)
  axis = cells.axis(low, full, align_corners)
  found = cells.neighbours(own, axis, align_corners)
  if scale % finer:
    assert found is None
    return
  if found is None:  # what cells of an odd number of pixels, or of one, cannot hold
    assert finer == 2
    assert align_corners or scale != 4
    return
  x = np.random.default_rng(0).normal(size=own).astype(np.float32)
  index = np.arange(axis.cells)[:, None] * found.step + found.start + np.arange(found.count)
  got = x[np.clip(index, 0, own - 1)] @ np.array(found.weight).T  # [cells, phases]
  got = got.ravel()[axis.before : axis.before + full]
  want = resize(jnp.array(x)[None, :, None, None], (full, 1), align_corners)[0, :, 0, 0]
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_sizes_of_no_whole_ratio_have_no_cells():
  assert cells.axis(5, 21, False) is None
  assert cells.axis(5, 20, True) is None
  assert cells.axis(1, 5, True) is None
  # Half-pixel centres share no cells with corners on corners.
  assert cells.neighbours(5, cells.axis(5, 17, True), False) is None


def test_labels_by_cells_come_back():
  x = jnp.array(np.random.default_rng(0).integers(0, 255, (2, 12, 17)), jnp.uint8)
  rows, columns = cells.axis(3, 12, False), cells.axis(5, 17, True)
  there = cells.to_cells(x, rows, columns, 255)
  assert there.shape == (2, 16, 4, 5)
  np.testing.assert_array_equal(cells.from_cells(there, rows, columns), x)
