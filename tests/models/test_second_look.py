"""Error-guided views: doubtful tiles get the mean over the views, the others keep the first pass."""

import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax import assemble
from errseg_jax.errors import UserError
from errseg_jax.models.second_look import look_again
from errseg_jax.models.views import Padding, Views, combined
from errseg_jax.structs import Outputs

PADDING = Padding(8, 0, (100.0, 100.0, 100.0))


def views(share, scales=(1.0,), mirror=True, tile=8, margin=4):
  return Views(PADDING, scales, mirror, share=share, tile=tile, margin=margin)


def local(image, wanted):
  """A network that looks at one pixel and to its right; P_ep is the third channel."""
  x = image.astype(jnp.float32)
  right = jnp.concatenate([x[:, :, 1:], x[:, :, -1:]], 2)
  semantic = x + 0.5 * right
  if not wanted:
    return Outputs(semantic)
  return Outputs(semantic, error=x[..., 2] - 200.0, detail=semantic + 7.0)


def image_with(doubtful, size=(32, 48)):
  image = np.random.default_rng(0).integers(0, 100, (1, *size, 3), np.uint8)
  for row, column in doubtful:
    image[0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8, 2] = 250
  return jnp.asarray(image)


@pytest.mark.parametrize("doubtful", [[(1, 2), (3, 5)], [(0, 0), (0, 5)]])
def test_doubtful_tiles_are_as_of_all_views_and_the_rest_as_of_one(doubtful):
  image = image_with(doubtful)
  got = look_again(local, image, views(2 / 24), ("error", "detail"), True)
  once = local(image, ("error", "detail"))
  all_views = combined(lambda x: local(x, ()), image, views(1.0))
  mask = np.zeros((4, 6), bool)
  mask[tuple(zip(*doubtful, strict=True))] = True
  mask = mask.repeat(8, 0).repeat(8, 1)
  np.testing.assert_allclose(got.semantic[0][mask], all_views.semantic[0][mask], atol=1e-4)
  assert (got.semantic[0][~mask] == once.semantic[0][~mask]).all()
  assert np.abs(all_views.semantic - once.semantic)[0][mask].max() > 1
  assert (got.error == once.error).all()
  np.testing.assert_allclose(got.detail - got.semantic, once.detail - once.semantic, atol=1e-3)


def test_a_detail_branch_that_is_no_correction_keeps_its_logits():
  image = image_with([(1, 2)])
  got = look_again(local, image, views(0.1), ("error", "detail"), False)
  assert (got.detail == local(image, ("error", "detail")).detail).all()


@pytest.mark.parametrize("size", [(29, 43), (10, 43), (32, 48)])
@pytest.mark.parametrize("scales", [(1.0,), (0.75, 1.0, 1.25)])
def test_any_size_and_scale(size, scales):
  """Of an image of one colour every view says the same, at borders that no tile fits too."""
  image = jnp.full((2, *size, 3), 100, jnp.uint8)
  got = look_again(local, image, views(1.0, scales), (), True)
  np.testing.assert_allclose(got.semantic, 150.0, atol=1e-3)


def test_each_image_has_its_own_tiles():
  image = jnp.concatenate([image_with([(1, 2)]), image_with([(3, 0)])])
  together = look_again(local, image, views(1 / 24), ("error",), True).semantic
  for i in range(2):
    alone = look_again(local, image[i : i + 1], views(1 / 24), ("error",), True).semantic
    np.testing.assert_allclose(alone[0], together[i], atol=1e-5)


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"share": 0.0}, "share=0.0"),
    ({"share": 0.3, "combine": "max"}, "'mean'"),
    ({"share": 0.3, "tile": 0}, "tile=0"),
    ({"share": 0.3, "margin": -1}, "margin=-1"),
    ({"share": 0.3, "margin": 3}, "multiples of loader.size_multiple=32"),
  ],
)
def test_settings_that_make_no_sense_are_refused(changes, says, tiny_config):
  config = assemble.with_defaults(tiny_config(views__mirror=True))
  config.views.update(changes)
  with pytest.raises(UserError, match=says):
    assemble.model(config, 3)
