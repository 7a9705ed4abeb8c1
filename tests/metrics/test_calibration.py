import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from sklearn import isotonic
from sklearn import metrics as sk

from errseg_jax.metrics.calibration import CALIBRATIONS, MAX_KNOTS, Calibration, calibrated, fit
from errseg_jax.metrics.errors import error_histogram, error_scores


def histogram(z, wrong):
  return np.asarray(error_histogram(jnp.array(z)[None], wrong[None], np.ones_like(wrong)[None])[0])


def sample(probability, n=250_000, seed=0):
  """Logits and errors of probability `probability(logit)`."""
  rng = np.random.default_rng(seed)
  z = rng.normal(-1, 2, n).astype(np.float32)
  return z, rng.random(n) < probability(z)


def bent(z):
  """No scale and offset of the logit give it."""
  return 0.02 + 0.5 * special.expit(4 * (z + 2)) + 0.3 * special.expit(4 * (z - 2))


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (0.4, -1.5), (2.0, 1.0)])
def test_platt_recovers_the_scale_and_offset_that_made_the_errors(scale, offset):
  found = fit("platt", histogram(*sample(lambda z: special.expit(scale * z + offset))))
  np.testing.assert_allclose((found.scale, found.offset), (scale, offset), atol=0.05)


@pytest.mark.parametrize("kind", CALIBRATIONS)
@pytest.mark.parametrize("row", [0, 1])
def test_without_errors_or_without_correct_pixels_nothing_is_fitted(kind, row):
  hist = np.zeros((2, 4096), int)
  hist[row] = 5
  assert fit(kind, hist) == Calibration()


def test_isotonic_is_calibrated_on_fresh_pixels_where_platt_cannot_be():
  hist = histogram(*sample(bent))
  z, wrong = sample(bent, seed=1)
  ece = {k: error_scores(histogram(calibrated(z, fit(k, hist).arrays()), wrong))["ECE"] for k in CALIBRATIONS}
  assert ece["isotonic"] < 0.5 < 0.5 * ece["platt"] < ece["none"]


def test_isotonic_meets_pooling_of_adjacent_violators():
  # Where pixels are: beyond the outermost knots it leaves the last frequency, so that rankings stay.
  z, wrong = sample(bent)
  want = isotonic.IsotonicRegression(out_of_bounds="clip").fit(z, wrong)
  x = np.linspace(-6, 3, 50, dtype=np.float32)
  got = special.expit(calibrated(x, fit("isotonic", histogram(z, wrong)).arrays()))
  np.testing.assert_allclose(got, want.predict(x), atol=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_isotonic_keeps_the_ranking(seed):
  """Even of few pixels, whose frequencies are 0 and 1 at the ends, and beyond the table."""
  z, wrong = sample(bent, n=3000, seed=seed)
  found = fit("isotonic", histogram(z[:1000], wrong[:1000]))
  after = np.asarray(calibrated(z, found.arrays()))
  assert np.isfinite(found.knots).all()
  assert 1 < len(found.knots) <= MAX_KNOTS
  assert np.all(np.diff(after[np.argsort(z)]) >= 0)
  assert sk.roc_auc_score(wrong, after) == pytest.approx(sk.roc_auc_score(wrong, z), abs=1e-6)
  assert np.unique(after).size > 0.999 * np.unique(z).size


def test_errors_apart_from_correct_pixels_give_one_finite_knot():
  hist = np.zeros((2, 4096), int)
  hist[0, 1000], hist[1, 3000] = 30, 10
  (knot,) = fit("isotonic", hist).knots
  assert np.isfinite(knot).all()


def test_the_table_is_a_map_that_goes_on_with_slope_one():
  arrays = Calibration(knots=((-2.0, -4.0), (0.0, -3.0), (2.0, 1.0))).arrays()
  got = calibrated(jnp.array([-5.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.5]), arrays)
  np.testing.assert_allclose(got, [-7.0, -4.0, -3.5, -3.0, -1.0, 1.0, 2.5])
