"""Tiles: each pixel's weights sum to 1, and what needs no more than the overlap comes out as of the whole image."""

import pathlib
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from errseg_jax import assemble
from errseg_jax.config import default_config
from errseg_jax.errors import UserError
from errseg_jax.inference.choice import Choice
from errseg_jax.inference.network import TrainedNetwork
from errseg_jax.models.error_aware import ErrorAware, infer
from errseg_jax.models.resize import resize
from errseg_jax.models.tiles import Tiles, band, tiled
from errseg_jax.models.views import Padding, Views
from errseg_jax.structs import DatasetInfo, Features, Outputs

CLASSES = 5
REACH = 16  # pixels that the tiny network sees to every side, its resizing to the image's size included


class Tiny(nn.Module):
  """A convolutional segmenter of stride 4 without global pooling."""

  num_classes: int = CLASSES
  mean: tuple[float, float, float] = (124, 116, 104)

  @nn.compact
  def __call__(self, image, train=False):
    x = image.astype(jnp.float32) / 64 - 2
    for stride in (2, 2, 1):
      x = nn.relu(nn.Conv(8, (3, 3), (stride, stride), padding=1)(x))
    return Features(nn.Conv(self.num_classes, (1, 1))(x))


class TinyError(nn.Module):
  prior: str = "none"

  @nn.compact
  def __call__(self, image, features, semantic, detail, train=False):
    return resize(nn.Conv(1, (3, 3), name="logit")(features.logits), semantic.shape[1:3])[..., 0]


class TinyDetail(nn.Module):
  @nn.compact
  def __call__(self, image, features, semantic, train=False):
    return semantic + nn.Conv(semantic.shape[-1], (3, 3), name="add")(image / 255)


def network(classes=CLASSES, **fields):
  model = ErrorAware(Tiny(classes), TinyError(), TinyDetail(), **fields)
  return model, model.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.uint8))


def image(height, width, batch=1):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (batch, height, width, 3), np.uint8)


@pytest.mark.parametrize("length", [32, 40, 64, 72, 136])
@pytest.mark.parametrize("overlap", [0, 3, 8, 15])
def test_tiles_cover_an_image_and_their_weights_sum_to_one(length, overlap):
  starts, weights = Tiles(8, 32, overlap).places(length)
  total = np.zeros(length)
  for start, own in zip(starts, weights, strict=True):
    total[start : start + 32] += own
  np.testing.assert_allclose(total, 1, atol=1e-6)
  assert (weights > 0).all()
  assert not (starts % 8).any()
  assert (starts[0], starts[-1]) == (0, length - 32)
  assert (np.diff(starts) <= 32 - overlap).all()


def test_weights_fall_towards_the_borders_inside_an_image_and_not_at_its_own():
  starts, weights = Tiles(8, 32, 8).places(56)
  assert starts.tolist() == [0, 24]
  assert (weights[0, :24] == 1).all()
  assert (weights[1, 8:] == 1).all()
  np.testing.assert_allclose(weights[0, 24:], np.arange(8, 0, -1) / 9, atol=1e-6)


def test_an_image_below_the_size_of_a_tile_is_seen_whole():
  assert [x.tolist() for x in Tiles(8, 32, 8).places(24)] == [[0], [[1.0] * 24]]


def of_pixels(x):
  z = jnp.asarray(x, jnp.float32)
  return Outputs(semantic=z, error=z[..., 0], base=z.max((1, 2)))


@pytest.mark.parametrize("size", [(32, 32), (24, 72), (72, 24), (80, 56), (24, 16)])
def test_what_a_pixel_says_of_itself_and_the_largest_of_all_tiles_come_out(size):
  x = image(*size, batch=2) // 2
  x[:, 3, 4] = 255  # in the first tile alone
  got, want = tiled(of_pixels, x, Tiles(8, 32, 8)), of_pixels(x)
  np.testing.assert_allclose(got.semantic, want.semantic, atol=1e-3)
  np.testing.assert_allclose(got.error, want.error, atol=1e-3)
  np.testing.assert_array_equal(got.base, want.base)


def inside(size, tiles, reach):
  """Pixels that lie at least `reach` from every tile's border within the image."""
  masks = []
  for n in size:
    keep = np.ones(n, bool)
    starts, weights = tiles.places(n)
    for edge in (*starts[1:], *(starts[:-1] + weights.shape[1])):
      keep[max(0, edge - reach) : edge + reach] = False
    masks.append(keep)
  return masks[0][:, None] & masks[1]


@pytest.mark.parametrize("size", [(160, 224), (64, 200), (96, 96)])
def test_a_network_without_global_pooling_says_the_same_as_of_the_whole_image(size):
  tiles = Tiles(8, 96, 40)
  model, variables = network()
  x = image(*size, batch=2)
  run = jax.jit(lambda v, x, tiles: infer(model.clone(tiles=tiles), v, x), static_argnums=2)
  whole, got = run(variables, x, None), run(variables, x, tiles)
  keep = inside(size, tiles, REACH)
  assert keep.mean() > 0.1
  for name in ("semantic", "detail", "error"):
    a, b = (np.asarray(getattr(z, name)) for z in (got, whole))
    np.testing.assert_allclose(a[:, keep], b[:, keep], atol=1e-4, err_msg=name)
    if max(size) > 96:
      assert np.abs(a - b).max() > 1e-2  # at the borders a tile sees zeros in place of its neighbour
    else:
      np.testing.assert_array_equal(a, b)


def test_each_tile_is_seen_in_all_views():
  tiles, views = Tiles(8, 64, 8), Views(Padding(8, 0, (124, 116, 104)), (1.0,), True)
  model, variables = network()
  x = image(64, 120)
  both = jax.jit(lambda v, x: infer(model.clone(tiles=tiles, views=views), v, x))(variables, x)
  once = jax.jit(lambda v, x: infer(model.clone(views=views), v, x))
  left, right = once(variables, x[:, :, :64]), once(variables, x[:, :, 56:])
  np.testing.assert_allclose(both.semantic[:, :, :56], left.semantic[:, :, :56], atol=1e-5)
  np.testing.assert_allclose(both.semantic[:, :, 64:], right.semantic[:, :, 8:], atol=1e-5)


def trained(classes=CLASSES, **fields):
  """A network as it is loaded from a workdir."""
  model, variables = network(classes, **fields)
  config = default_config()
  config.loader.size_multiple = 8
  names = tuple(map(str, range(classes)))
  info = DatasetInfo("tiny", names, ((0, 0, 0),) * classes)
  return TrainedNetwork(config, info, model, variables, Choice(fusion="soft", scale=1.5))


@pytest.mark.parametrize("size", [(150, 203), (61, 130), (130, 61), (64, 64), (50, 30)])
@pytest.mark.parametrize("mirror", [False, True])
def test_band_by_band_is_as_at_once(size, mirror):
  views = Views(Padding(8, 0, (124, 116, 104)), (1.0,), True) if mirror else None
  net = trained(tiles=Tiles(8, 64, 24), views=views)
  x = image(*size)[0]
  got = net.predict(x)
  padded = np.empty((1, *(-(-n // 8) * 8 for n in size), 3), np.uint8)
  padded[:] = assemble.pad_value(net.config)
  padded[0, : size[0], : size[1]] = x
  want = jax.tree.map(
    lambda z: np.asarray(z)[0, : size[0], : size[1]],
    net._forward(net.variables, padded, net.choice.arrays()),
  )
  for name in ("labels", "semantic_labels", "detail_labels"):
    np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    assert getattr(got, name).dtype == np.uint8
  np.testing.assert_allclose(got.error_probability, want.error_probability, atol=1e-6)
  assert len(np.unique(got.labels)) > 1


def test_bands_of_all_images_share_a_program(monkeypatch):
  traced = []
  monkeypatch.setattr("errseg_jax.inference.network.band", lambda *a: traced.append(1) or band(*a))
  net = trained(tiles=Tiles(8, 64, 24))
  for height in (72, 96, 200, 203):
    net.predict(image(height, 80)[0])
  assert len(traced) == 1


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"size": 100}, r"multiple of loader\.size_multiple=32"),
    ({"size": -32}, "size=-32"),
    ({"size": 128, "overlap": 64}, "below half"),
    ({"size": 128, "overlap": -1}, "at least 0"),
    ({"size": 32, "overlap": 8}, "plus loader.size_multiple=32"),
    ({"stride": 4}, "key='stride' is unknown"),
  ],
)
def test_settings_that_make_no_sense_are_refused(changes, says, tiny_config):
  config = tiny_config()
  config.tiles.update(changes)
  with pytest.raises(UserError, match=says):
    assemble.model(assemble.with_defaults(config), 3)


def test_a_config_makes_the_tiles(tiny_config):
  config = tiny_config(tiles__size=65, tiles__overlap=1, segmenter__size_remainder=1)
  assert assemble.model(assemble.with_defaults(config), 3).tiles == Tiles(32, 65, 1)
  assert assemble.model(assemble.with_defaults(tiny_config()), 3).tiles is None


def memory(kind):
  """Of this process, GiB: "RSS" as it is, "HWM" its peak."""
  (kib,) = re.findall(rf"Vm{kind}:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())
  return int(kib) / 2**20


@pytest.mark.proof
def test_a_large_image_of_many_classes_takes_bounded_memory():
  """8192 x 8192 pixels, 21 classes; all scores at once would take 5.6 GB for each of semantic and detail."""
  net = trained(21, tiles=Tiles(8, 256, 32))
  net.predict(image(512, 512)[0])  # what jax itself needs
  x = np.tile(image(1024, 1024)[0], (8, 8, 1))
  pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
  before, start = memory("RSS"), time.monotonic()
  out = net.predict(x)
  grown = memory("HWM") - before
  print(f"{grown:.2f} GiB of host memory growth, {time.monotonic() - start:.0f} s")
  assert out.labels.shape == out.error_probability.shape == (8192, 8192)
  assert grown < 4
