import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy import special

from errseg_jax.errors import UserError
from errseg_jax.inference import extra_scores
from errseg_jax.inference.confidnet import VoidAsClass
from errseg_jax.models.error_aware import ErrorAware, infer
from errseg_jax.structs import Features


class Net(nn.Module):
  """Statistics and dropout, either way that a layer is told of training; the last pixel row shows the image."""

  rate: float = 0.5
  told_when_built: bool = False
  mean: tuple[int, int, int] = (123, 117, 104)

  @nn.compact
  def __call__(self, image, train=False):
    x = image.astype(jnp.float32) / 255
    x = nn.BatchNorm(use_running_average=not train)(x)
    if self.told_when_built:
      x = nn.Dropout(self.rate, deterministic=not train)(x)
    else:
      x = nn.Dropout(self.rate, broadcast_dims=(1, 2))(x, deterministic=not train)
    return Features(4 * x)


def model(**fields):
  net = ErrorAware(Net(**fields), None, None)
  image = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), np.uint8)
  return net, net.init(jax.random.key(0), image, wanted=()), image


def labels_of(net, variables, image):
  return net.apply(variables, image, wanted=()).semantic.argmax(-1)


@pytest.mark.parametrize("told_when_built", [False, True])
def test_dropout_works_and_is_the_same_again(told_when_built):
  net, variables, image = model(told_when_built=told_when_built)
  labels = labels_of(net, variables, image)
  first, second = (extra_scores.mc_dropout(net, variables, image, labels) for _ in range(2))
  np.testing.assert_array_equal(first, second)
  still = extra_scores.mc_dropout(model(rate=1e-9)[0], variables, image, labels)
  logits = np.asarray(net.apply(variables, image, wanted=()).semantic, np.float64)
  want = 1 - special.softmax(logits, -1).max(-1)
  np.testing.assert_allclose(special.expit(still), want, rtol=1e-4)
  # Dropped channels take the frozen label's lead.
  assert np.abs(first - still).max() > 0.1
  assert special.expit(first).mean() > want.mean()


def test_without_dropout_it_is_refused():
  net, variables, _ = model(rate=0.0)
  with pytest.raises(UserError, match="no dropout layer"):
    extra_scores.check_dropout(net, variables)
  net, variables, _ = model()
  extra_scores.check_dropout(net, variables)


def test_what_does_not_change_with_augmentation_scores_as_max_probability():
  """A network that looks at single pixels, on an image of one colour."""
  net, variables, image = model()
  image = np.broadcast_to(image[:, :1, :1], image.shape)
  got = extra_scores.tta(net, variables, image, labels_of(net, variables, image), 8, 0)
  logits = np.asarray(net.apply(variables, image, wanted=()).semantic, np.float64)
  np.testing.assert_allclose(special.expit(got), 1 - special.softmax(logits, -1).max(-1), rtol=1e-4)


def test_augmented_images_are_put_back_in_place():
  """An image smooth enough that its scaled copies are itself: mirrored or shifted results would disagree."""
  net, variables, _ = model()
  ramp = np.linspace(0, 255, 48)
  image = np.stack([np.tile(ramp, (32, 1)), np.full((32, 48), 128), np.tile(ramp[::-1], (32, 1))], -1)
  image = np.round(image)[None].astype(np.uint8)
  logits = np.asarray(net.apply(variables, image, wanted=()).semantic, np.float64)
  got = special.expit(extra_scores.tta(net, variables, image, logits.argmax(-1), 8, 0))
  np.testing.assert_allclose(got, 1 - special.softmax(logits, -1).max(-1), atol=0.03)


def test_a_scaled_image_keeps_its_shape_and_is_padded(monkeypatch):
  net, variables, _ = model()
  image = np.full((1, 20, 28, 3), 200, np.uint8)
  seen = []

  def look(net, variables, image, wanted):
    seen.append(np.asarray(image))
    return infer(net, variables, image, wanted)

  monkeypatch.setattr(extra_scores, "infer", look)
  extra_scores.tta(net, variables, image, labels_of(net, variables, image), 16, 1)
  assert [x.shape[1:3] for x in seen] == [(20, 28), (17, 33), (33, 49)]  # of 20x28, 15x21 and 25x35
  for padded, (height, width) in zip(seen[1:], ((15, 21), (25, 35)), strict=True):
    inside = np.zeros(padded.shape[1:3], bool)
    inside[:height, :width] = True
    assert (padded[0][inside] == 200).all()
    assert (padded[0][~inside] == Net.mean).all()


def test_void_is_a_class_and_the_source_stays_as_it_is():
  class Source:
    names = ("a",)

    def __len__(self):
      return 1

    def __getitem__(self, index):
      return {"label": np.array([[0, 255]], np.uint8), "name": "a"}

  source = VoidAsClass(Source(), 3)
  assert source[0]["label"].tolist() == [[0, 3]]
  assert (len(source), source.names, source[0]["name"]) == (1, ("a",), "a")
  with pytest.raises(UserError, match="255 classes"):
    VoidAsClass(Source(), 255)
