"""Views of an image: put back in place, and combined as numpy would."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax import assemble
from errseg_jax.config import cascade
from errseg_jax.errors import UserError
from errseg_jax.models.error_aware import infer
from errseg_jax.models.resize import resize
from errseg_jax.models.tiles import Tiles
from errseg_jax.models.views import Padding, Views, combined, look
from errseg_jax.structs import Outputs

PADDING = Padding(8, 0, (124, 116, 104))
MODES = ("mean", "max", "mean_max", "learned")
IMAGE = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)


def of_pixels(image):
  """Outputs that show the image, and one of what has no place."""
  z = jnp.asarray(image, jnp.float32) / 40
  return Outputs(semantic=z, error=z[..., 0] - 2, detail=-z, base=z.max((1, 2)))


def views(**fields):
  return Views(PADDING, **fields)


def by_hand(image, scale, mirrored):
  """The outputs of a view of a function of single pixels: of the image scaled and scaled back."""
  if scale == 1:
    return of_pixels(image)
  image = image[:, :, ::-1] if mirrored else image
  size = [round(scale * n) for n in image.shape[1:3]]
  small = np.round(resize(jnp.asarray(image, jnp.float32), size))
  padded = np.empty((len(image), *(-(-n // 8) * 8 for n in size), 3), np.float32)
  padded[:] = PADDING.colour
  padded[:, : size[0], : size[1]] = small
  outputs = of_pixels(small)

  def back(z):
    z = resize(z, image.shape[1:3])
    return z[:, :, ::-1] if mirrored else z

  return Outputs(
    semantic=back(outputs.semantic),
    error=back(outputs.error[..., None])[..., 0],
    detail=back(outputs.detail),
    base=of_pixels(padded).base,
  )


def fields(outputs):
  return {k: np.asarray(v) for k, v in vars(outputs).items() if hasattr(v, "ndim")}


def close(got, want, atol=1e-5):
  got, want = fields(got), fields(want)
  assert got.keys() == want.keys()
  for name in got:
    np.testing.assert_allclose(got[name], want[name], atol=atol, err_msg=name)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("scale", [0.7, 1.0, 1.3])
def test_a_view_is_the_image_scaled_and_what_is_said_of_it_put_back(scale, mirrored):
  got = look(of_pixels, IMAGE, (scale, mirrored), PADDING)
  close(got, by_hand(IMAGE, scale, mirrored))
  assert scale != 1 or (got.semantic == of_pixels(IMAGE).semantic).all()


def test_a_network_sees_the_scaled_image_padded_to_a_size_that_it_takes():
  seen = []
  look(lambda x: seen.append(x) or of_pixels(x), IMAGE, (0.7, True), Padding(16, 1, (1, 2, 3)))
  (image,) = seen
  assert image.shape == (2, 33, 49, 3)  # of 22 x 34
  assert image.dtype == jnp.uint8
  assert (image[:, 22:] == jnp.array((1, 2, 3), jnp.uint8).reshape(1, 1, 1, 3)).all()
  assert (image[:, :, 34:] == jnp.array((1, 2, 3), jnp.uint8).reshape(1, 1, 1, 3)).all()


def test_the_views_are_each_scale_and_its_mirror_image():
  assert views(scales=(0.8, 1.0), mirror=True).each == ((0.8, False), (0.8, True), (1.0, False), (1.0, True))
  assert views(scales=(1.2, 1.0)).each == ((1.2, False), (1.0, False))


def of_place(image):
  """Outputs that depend on where a pixel lies, so that a mirrored view says something else."""
  outputs = of_pixels(image)
  ramp = jnp.linspace(0, 1, image.shape[2]).reshape(1, 1, -1, 1)
  return dataclasses.replace(
    outputs, semantic=outputs.semantic + ramp, error=outputs.error - 3 * ramp[..., 0]
  )


@pytest.mark.parametrize("mode", MODES)
def test_combinations_are_those_of_numpy(mode):
  own = views(scales=(0.8, 1.0), mirror=True, combine=mode)
  weights = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
  got = fields(combined(of_place, IMAGE, own, weights))
  each = [fields(look(of_place, IMAGE, view, PADDING)) for view in own.each]
  for name in ("semantic", "detail", "error", "base"):
    z = np.stack([one[name] for one in each])
    mean, best = z.mean(0), z.max(0)
    want = {"mean": mean, "max": best, "mean_max": (mean + best) / 2, "learned": mean}[mode]
    if mode == "learned" and name in ("semantic", "detail"):
      want = np.einsum("kbhwc,kc->bhwc", z, weights)
    np.testing.assert_allclose(got[name], want, atol=1e-5, err_msg=name)
  assert np.abs(got["error"] - each[0]["error"]).max() > 0.1


def test_equal_weights_are_the_mean():
  own = views(scales=(0.8, 1.0, 1.2), mirror=True, combine="learned")
  weights = np.full((6, 3), 1 / 6, np.float32)
  learned = fields(combined(of_place, IMAGE, own, weights))
  mean = fields(combined(of_place, IMAGE, dataclasses.replace(own, combine="mean")))
  for name, z in mean.items():
    np.testing.assert_array_equal(learned[name], z)


@pytest.mark.parametrize("weights", [None, np.ones((2, 4), np.float32), np.ones((3, 3), np.float32)])
def test_weights_that_are_missing_or_of_other_views_are_refused(weights):
  with pytest.raises(UserError, match="2 views and 3 classes"):
    combined(of_pixels, IMAGE, views(mirror=True, combine="learned"), weights)


@pytest.fixture(scope="module")
def network(tiny_config):
  config = assemble.with_defaults(tiny_config())
  model = assemble.model(config, 3)
  return config, model, jax.jit(model.init)(jax.random.key(0), IMAGE)


def test_one_view_at_scale_one_is_the_plain_pass(network):
  _, model, variables = network
  assert model.views is None
  plain = jax.jit(lambda v, x: infer(model, v, x))(variables, IMAGE)
  seen = model.clone(views=views())
  got = jax.jit(lambda v, x: infer(seen, v, x))(variables, IMAGE)
  for name, z in fields(plain).items():
    np.testing.assert_array_equal(fields(got)[name], z)


def test_with_mirror_images_what_is_said_mirrors_with_the_image():
  own = views(
    scales=(0.75, 1.0), mirror=True
  )  # of a width that needs no padding, which lies on one side only
  got, mirrored = (combined(of_place, x, own) for x in (IMAGE[:, :, :32], IMAGE[:, :, 31::-1]))
  for name in ("semantic", "error"):
    z = fields(got)[name]
    np.testing.assert_allclose(fields(mirrored)[name], z[:, :, ::-1], atol=1e-5)
    assert np.abs(fields(of_place(IMAGE[:, :, :32]))[name] - z).max() > 0.1


def test_a_config_makes_the_views(tiny_config):
  config = tiny_config(views__scales=(0.8, 1.0), views__mirror=True, loader__size_multiple=16)
  model = assemble.model(assemble.with_defaults(config), 3)
  assert model.views == Views(Padding(16, 0, (124, 116, 104)), (0.8, 1.0), True, "mean")


def test_learned_weights_lie_beside_the_parameters_and_flax_leaves_them_alone(network):
  config, model, variables = network
  config = config.copy_and_resolve_references()
  config.views.mirror, config.views.combine = True, "learned"
  model = assemble.model(config, 3)
  with pytest.raises(UserError, match="errseg tune"):
    infer(model, variables, IMAGE)
  run = jax.jit(lambda v, x: infer(model, v, x))
  first = np.array([[1] * 3, [0] * 3], np.float32)
  got = run({**variables, "tuned": {"combination": first}}, IMAGE)
  plain = infer(model.clone(views=None), {**variables, "tuned": {"combination": first}}, IMAGE)
  np.testing.assert_allclose(got.semantic, plain.semantic, atol=1e-4)


def test_early_exit_views_and_tiles_work_together(tiny_config):
  config = assemble.with_defaults(cascade(tiny_config(), 16))
  config.views.mirror, config.early_exit.threshold = True, 0.3
  model = assemble.model(config, 3)
  variables = jax.jit(model.init)(jax.random.key(0), IMAGE)
  got = jax.jit(lambda v, x: infer(model, v, x))(variables, IMAGE)
  once = jax.jit(lambda v, x: infer(model.clone(views=None), v, x))
  a, b = once(variables, IMAGE), once(variables, IMAGE[:, :, ::-1])
  close(got, jax.tree.map(lambda y, z: (y + z[:, :, ::-1]) / 2, a, b), atol=1e-4)
  wide = np.concatenate([IMAGE, IMAGE[::-1]], 2)
  tiles = jax.jit(lambda v, x: infer(model.clone(tiles=Tiles(16, 48, 0)), v, x))(variables, wide)
  close(jax.tree.map(lambda z: z[:, :, :48], tiles), got, atol=1e-4)
  close(jax.tree.map(lambda z: z[::-1, :, 48:], tiles), got, atol=1e-4)


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"scales": ()}, "scales="),
    ({"scales": (0.0, 1.0)}, "above 0"),
    ({"scales": ("big",)}, "above 0"),
    ({"scales": (1.0, 1.0)}, "different"),
    ({"combine": "median"}, "known: mean, max"),
    ({"combine": "learned"}, "more views than one"),
    ({"flip": True}, "key='flip' is unknown"),
  ],
)
def test_settings_that_make_no_sense_are_refused(changes, says, tiny_config):
  config = tiny_config()
  config.views.update(changes)
  with pytest.raises(UserError, match=says):
    assemble.model(assemble.with_defaults(config), 3)
