import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from errseg_jax.metrics.temperature import INVERSES, fit_temperature, nll_slopes


def make(temperature, seed=0, shape=(2, 150, 200), num_classes=4):
  """Logits whose softmax at `temperature` is the distribution of the labels."""
  rng = np.random.default_rng(seed)
  logits = rng.normal(0, 4, (*shape, num_classes)).astype(np.float32)
  p = special.softmax(logits / temperature, -1).cumsum(-1)
  label = (rng.random(shape)[..., None] > p).sum(-1).clip(0, num_classes - 1).astype(np.uint8)
  return logits, label


@pytest.mark.parametrize("temperature", [0.5, 1.3, 2.0, 5.0])
def test_the_temperature_that_made_the_labels_is_found(temperature):
  logits, label = make(temperature)
  assert fit_temperature(nll_slopes(logits, label)) == pytest.approx(temperature, rel=0.03)


def test_batches_add_up_and_ignored_pixels_change_nothing():
  logits, label = make(2.0)
  label[:, :20] = 255
  moved = np.where((label == 255)[..., None], logits[..., ::-1] * 3, logits)
  whole = nll_slopes(logits, label)
  np.testing.assert_allclose(nll_slopes(moved, label), whole, rtol=1e-5)
  parts = sum(np.asarray(nll_slopes(logits[i : i + 1], label[i : i + 1])) for i in range(2))
  np.testing.assert_allclose(parts, whole, rtol=1e-3, atol=1.0)


def test_the_slope_is_that_of_the_log_loss():
  logits, label = make(2.0, shape=(1, 20, 20))
  slopes = nll_slopes(jnp.array(logits), label)

  def nll(inverse):
    log_p = special.log_softmax(inverse * logits.astype(np.float64), -1)
    return -np.take_along_axis(log_p, label[..., None].astype(int), -1).sum()

  want = [(nll(b + 1e-5) - nll(b - 1e-5)) / 2e-5 for b in INVERSES]
  np.testing.assert_allclose(slopes, want, rtol=1e-4, atol=1e-2)


def test_beyond_the_grid_its_end_is_taken_and_without_pixels_nothing_is_fitted():
  always_right = -np.arange(13.0, 0, -1)
  assert fit_temperature(always_right) == 1 / INVERSES[-1]
  assert fit_temperature(-always_right) == 1 / INVERSES[0]
  assert fit_temperature(np.zeros(13)) == 1.0
