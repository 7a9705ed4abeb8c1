"""Early exit: what runs on tiles comes out as it does of the whole map, and what exits stays coarse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax import assemble
from errseg_jax.config import cascade
from errseg_jax.errors import UserError
from errseg_jax.models.early_exit import needed_cells, neighbours, on_tiles
from errseg_jax.models.error_aware import infer
from errseg_jax.models.resize import resize
from errseg_jax.sharding import make_mesh, shard_batch


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("pixels", "cells"), [(32, 4), (33, 5), (30, 7), (8, 8), (5, 1)])
def test_neighbours_are_where_resize_takes_from(pixels, cells, align_corners):
  weights = resize(jnp.eye(cells)[:, None, :, None], (1, pixels), align_corners)[:, 0, :, 0].T
  assert ((np.asarray(weights) > 1e-6) <= neighbours(pixels, cells, align_corners)).all()
  assert neighbours(pixels, cells, align_corners).sum(1).max() <= 2


def test_a_pixel_needs_the_cells_around_it():
  pixels = np.zeros((1, 16, 24), bool)
  pixels[0, 9, 3] = True  # in cell (2, 0) of 4 x 6, nearer to (1, 0) than to (3, 0)
  assert np.argwhere(needed_cells(jnp.asarray(pixels), (4, 6))[0]).tolist() == [
    [1, 0],
    [1, 1],
    [2, 0],
    [2, 1],
  ]


def convolve(kernel, padding):
  return lambda x: jax.lax.conv_general_dilated(
    x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


@pytest.mark.parametrize("tile", [1, 3, 4, 16])
@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("size", [(8, 12), (7, 9)])
def test_tiles_come_out_as_of_the_whole_map(size, share, tile):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, *size, 5)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(3, 3, 5, 2)), jnp.float32)
  needed = rng.random((2, *size)) < share
  got = jax.jit(lambda x, n: on_tiles(convolve(kernel, "VALID"), x, n, tile))(x, jnp.asarray(needed))
  whole = convolve(kernel, "SAME")(x)
  np.testing.assert_allclose(got[needed], whole[needed], atol=1e-4)
  if share == 0:
    assert not got.any()


def test_tiles_that_nobody_needs_are_left_out():
  x, needed = jnp.ones((1, 64, 64, 1)), np.zeros((1, 64, 64), bool)
  needed[0, 10, 33] = True
  got = on_tiles(lambda tiles: tiles[:, 1:-1, 1:-1], x, jnp.asarray(needed), 4)
  assert got[0, 8:12, 32:36].all()
  assert got.sum() <= 128  # one chunk of tiles


@pytest.fixture(scope="module")
def exits(tiny_config):
  """(threshold, align_corners, tile) -> (dense outputs, outputs of early exit)."""

  def run(threshold, align_corners=False, tile=2):
    config = cascade(tiny_config(), 16)
    config.segmenter.head.align_corners = align_corners
    config.early_exit.tile = tile
    config = assemble.with_defaults(config)
    image = np.random.default_rng(0).integers(0, 256, (3, 40, 56, 3), np.uint8)
    dense = assemble.model(config, 3)
    config.early_exit.threshold = threshold
    variables = jax.jit(dense.init)(jax.random.key(1), image)
    classifier = variables["params"]["error"]["classifier"]["conv"]
    classifier["kernel"] = classifier["kernel"] / jnp.abs(infer(dense, variables, image).error).max()
    model = assemble.model(config, 3)
    return tuple(jax.jit(lambda v, x, m=m: infer(m, v, x))(variables, image) for m in (dense, model))

  return run


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("tile", [2, 3])
def test_over_the_threshold_all_is_as_without_early_exit_and_under_it_coarse(exits, align_corners, tile):
  attention = np.asarray(jax.nn.sigmoid(exits(0.5, align_corners)[0].error))
  threshold = float(np.quantile(attention, 0.8))
  dense, tiled = exits(threshold, align_corners, tile)
  on = attention > threshold
  assert 0.1 < on.mean() < 0.3
  scale = np.abs(dense.detail).max()
  np.testing.assert_allclose(tiled.detail[on], dense.detail[on], atol=1e-4 * scale)
  np.testing.assert_allclose(tiled.refined[on], dense.refined[on], atol=1e-4 * scale)
  assert (tiled.detail[~on] == dense.semantic[~on]).all()
  assert np.abs(dense.detail[~on] - dense.semantic[~on]).max() > 1e-2 * scale
  assert (tiled.semantic == dense.semantic).all()
  assert (tiled.error == dense.error).all()


def test_the_images_of_several_devices_come_out_alike():
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(4, 8, 12, 5)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(3, 3, 5, 2)), jnp.float32)
  needed = jnp.asarray(rng.random((4, 8, 12)) < 0.1)
  run = jax.jit(lambda x, n: on_tiles(convolve(kernel, "VALID"), x, n, 2))
  apart = shard_batch({"x": np.asarray(x), "needed": np.asarray(needed)}, make_mesh(4))
  np.testing.assert_allclose(run(apart["x"], apart["needed"]), run(x, needed), atol=1e-5)


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"threshold": 1.0}, "below 1"),
    ({"threshold": -0.1}, "at least 0"),
    ({"tile": 0}, "tile=0"),
  ],
)
def test_settings_that_make_no_sense_are_refused(changes, says, tiny_config):
  config = assemble.with_defaults(cascade(tiny_config(), 16))
  config.early_exit.update(changes)
  with pytest.raises(UserError, match=says):
    assemble.model(config, 3)


def test_it_wants_the_pyramid(tiny_config):
  config = tiny_config(order=("cascade",), early_exit__threshold=0.5)
  with pytest.raises(UserError, match=r"detail_branch\.name='pyramid'"):
    assemble.model(assemble.with_defaults(config), 3)
