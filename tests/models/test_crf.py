"""The guidance CRF on planted images."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax.models.crf import GuidanceCRF, mean_field, messages_of
from errseg_jax.models.guided_filter import guided_filter

CRF = GuidanceCRF(iterations=5, radius=6, alpha=3.0, lam=3.0)
COLOURS = np.array([(40, 40, 40), (220, 60, 40), (40, 200, 60), (60, 80, 230)], np.float32)
SIZE = 36


@functools.partial(jax.jit, static_argnames=("iterations", "kernel"))
def run(image, scores, presence, alpha=3.0, lam=3.0, iterations=5, kernel="guided"):
  """Numbers are traced, so that the tests share their compiled programs."""
  crf = dataclasses.replace(CRF, alpha=alpha, lam=lam, iterations=iterations, kernel=kernel)
  return mean_field(crf, image, scores, presence)


def quarters():
  """Labels of four regions [1, H, W], and an image in their colours."""
  row, column = np.mgrid[:SIZE, :SIZE]
  label = (2 * (row >= SIZE // 2) + (column >= SIZE // 2))[None]
  return label, COLOURS[label]


def scored(label, margin=2.0, classes=4):
  return np.float32(margin * np.eye(classes)[label])


def logit(p):
  p = np.asarray(p, np.float32)
  return np.log(p / (1 - p))


@pytest.fixture(scope="module")
def drawn():
  """An image, scores and presence without any order."""
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)
  return (
    image,
    rng.normal(size=(2, SIZE, SIZE, 4)).astype(np.float32),
    rng.normal(size=(2, 4)).astype(np.float32),
  )


def test_an_update_is_the_closed_form_and_the_sum_of_penalties(drawn):
  """Two updates from the paper's sum over b, and from u + alpha m + alpha lambda s / 2; eps is added once a time."""
  image, u, presence = drawn
  alpha, lam = 1.5, 0.8
  got = np.asarray(run(image, u, presence, alpha, lam, iterations=2)[0])
  s = np.float64(jax.nn.sigmoid(presence))
  filtered = jax.jit(lambda q: guided_filter(image, q, CRF.radius, CRF.eps))
  closed = summed = np.float64(u)
  penalty = 1 - np.eye(4) - lam * (s[:, :, None] + s[:, None, :]) / 2
  for _ in range(2):
    m = np.asarray(filtered(jax.nn.softmax(jnp.float32(closed))))
    closed = u + alpha * m + alpha * lam / 2 * s[:, None, None]
    m = np.asarray(filtered(jax.nn.softmax(jnp.float32(summed))))
    summed = u - alpha * np.einsum("bac,bhwc->bhwa", penalty, m)
  np.testing.assert_allclose(got, closed, atol=1e-4)
  np.testing.assert_allclose(
    got - got.mean(-1, keepdims=True), summed - summed.mean(-1, keepdims=True), atol=1e-4
  )


def test_without_weight_or_iterations_scores_come_back(drawn):
  image, u, presence = drawn
  got, changed = run(image, u, presence, alpha=0.0)
  np.testing.assert_array_equal(got, u)
  assert changed.shape == (5,)
  assert not changed.any()
  got, changed = run(image, jnp.asarray(u, jnp.bfloat16), presence, iterations=0)
  assert got.dtype == jnp.float32
  assert changed.shape == (0,)


def test_the_order_of_classes_does_not_matter(drawn):
  image, u, presence = drawn
  order = np.array([2, 0, 3, 1])
  got, changed = run(image, u[..., order], presence[:, order])
  want, same = run(image, u, presence)
  np.testing.assert_allclose(got, np.asarray(want)[..., order], atol=1e-4)
  np.testing.assert_allclose(changed, same, atol=1e-3)


def test_normalised_scores_give_the_same_labels(drawn):
  image, u, presence = drawn
  a, b = run(image, u, presence)[0], run(image, np.asarray(jax.nn.log_softmax(u)), presence)[0]
  np.testing.assert_allclose(jax.nn.softmax(a), jax.nn.softmax(b), atol=1e-4)


@pytest.mark.parametrize(("kernel", "right"), [("guided", 0.99), ("gaussian_bilateral", 0.97)])
def test_it_restores_noise_and_converges(kernel, right):
  """A fifth of the labels is flipped; the baseline's Gaussian kernel rounds corners."""
  label, image = quarters()
  rng = np.random.default_rng(1)
  flipped = rng.random(label.shape) < 0.2
  noisy = np.where(flipped, (label + rng.integers(1, 4, label.shape)) % 4, label)
  got, changed = run(image, scored(noisy), None, lam=0.0, kernel=kernel)
  assert (noisy == label).mean() < 0.83
  assert (np.asarray(got).argmax(-1) == label).mean() > right
  assert changed.max() > 0.1
  assert changed[-1] < 0.01


def test_the_classes_of_the_image_repair_a_region_and_potts_does_not():
  """A region of class 3, which the image lacks, in a colour of its own; truth is class 1."""
  label, image = quarters()
  wrong = np.zeros(label.shape, bool)
  wrong[:, 4:13, 22:32] = True
  image = np.where(wrong[..., None], np.float32((240, 240, 240)), image)
  label = np.where(label == 3, 2, label)
  shown = np.where(wrong, 3, label)
  assert (label[wrong] == 1).all()
  s = np.array([[0.98, 0.98, 0.98, 0.02]])
  scores = scored(shown)
  scores[wrong, 0] = scores[wrong, 2] = -4.0  # the truth comes second
  got, changed = run(image, scores, logit(s))
  np.testing.assert_array_equal(np.asarray(got).argmax(-1), label)
  assert changed[-1] < 0.01
  potts = np.asarray(run(image, scores, None, lam=0.0)[0]).argmax(-1)
  np.testing.assert_array_equal(potts, shown)


@pytest.mark.parametrize(("beyond", "winner"), [(-0.3, 1), (0.3, 0)])
def test_a_label_flips_where_the_bound_says(beyond, winner):
  """Inside a region of label 0: u_0 - u_1 < alpha (lambda / 2 (s_1 - s_0) - 1) flips it to 1."""
  alpha, lam, s = 10.0, 5.0, np.array([[0.02, 0.98]])
  bound = alpha * (lam / 2 * (s[0, 1] - s[0, 0]) - 1)
  scores = np.zeros((1, SIZE, SIZE, 2), np.float32)
  scores[..., 0] = bound + beyond
  assert bound > 10  # so that Q is next to one-hot
  image = np.full((1, SIZE, SIZE, 3), 90, np.uint8)
  got, changed = run(image, scores, logit(s), alpha, lam, iterations=1)
  np.testing.assert_array_equal(np.asarray(got).argmax(-1), winner)
  assert changed[0] == winner


def test_a_sweep_compiles_once(drawn):
  image, u, presence = drawn
  count = 0

  @jax.jit
  def sweep(alpha, lam):
    nonlocal count
    count += 1
    return mean_field(dataclasses.replace(CRF, iterations=1, alpha=alpha, lam=lam), image, u, presence)[0]

  first, second = sweep(1.0, 0.0), sweep(2.0, 1.0)
  assert count == 1
  assert np.abs(first - second).max() > 0.1


def test_a_penalty_weighs_the_neighbours_labels(drawn):
  """Rows are the label, columns the neighbours'; Potts as a matrix is Potts."""
  image, u, presence = drawn
  crf = dataclasses.replace(CRF, iterations=1, compatibility="learned")
  learned = jax.jit(lambda matrix: mean_field(crf, image, u, presence, matrix)[0])
  want = np.asarray(run(image, u, presence, iterations=1)[0])
  got = np.asarray(learned(1 - np.eye(4, dtype=np.float32)))
  np.testing.assert_allclose(
    got - got.mean(-1, keepdims=True), want - want.mean(-1, keepdims=True), atol=1e-4
  )
  matrix = np.zeros((4, 4), np.float32)
  matrix[2, 1] = 1.0
  m = np.asarray(messages_of(crf, jnp.asarray(image))(jax.nn.softmax(u)))
  got = np.asarray(learned(matrix) - learned(np.zeros_like(matrix)))
  np.testing.assert_allclose(got[..., 2], -crf.alpha * m[..., 1], atol=1e-4)
  np.testing.assert_allclose(got[..., [0, 1, 3]], 0, atol=1e-5)


def test_messages_of_the_baseline_by_hand():
  """Three pixels in a row; the middle one is unlike the first and like the last."""
  image = np.zeros((1, 1, 3, 3), np.float32)
  image[0, 0, 0] = 200
  q = np.float32([[[[1.0, 0.0], [0.5, 0.5], [0.2, 0.8]]]])
  crf = GuidanceCRF(kernel="gaussian_bilateral", radius=1, bilateral=0.75, sigma_smooth=2.0)
  got = np.asarray(messages_of(crf, jnp.asarray(image))(q))[0, 0]
  np.testing.assert_allclose(got.sum(-1), 1, atol=1e-6)
  np.testing.assert_allclose(got[1], 0.75 * q[0, 0, 2] + 0.25 * (q[0, 0, 0] + q[0, 0, 2]) / 2, atol=1e-5)
  # The first pixel is like none: its bilateral message is its own.
  np.testing.assert_allclose(got[0], 0.75 * q[0, 0, 0] + 0.25 * q[0, 0, 1], atol=1e-5)


@pytest.mark.parametrize(
  ("changes", "matrix", "message"),
  [
    ({"kernel": "box"}, None, "guided, gaussian_bilateral"),
    ({"compatibility": "learned"}, None, "with a matrix"),
    ({}, np.eye(4), "with a matrix"),
    ({"compatibility": "potts"}, None, "with a matrix"),
  ],
)
def test_settings_that_are_none(drawn, changes, matrix, message):
  image, u, presence = drawn
  with pytest.raises(ValueError, match=message):
    mean_field(dataclasses.replace(CRF, **changes), image, u, presence, matrix)
