import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from sklearn import metrics as sk

from errseg_jax.metrics import curves, errors


def quantised(z: np.ndarray) -> np.ndarray:
  index = np.clip(np.floor((z + 16) * 128), 0, 4095).astype(int)
  return errors.BIN_CENTRES[index]


def sample(seed: int = 0, n: int = 3000) -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(seed)
  is_error = rng.random(n) < 0.2
  return rng.normal(np.where(is_error, 0.5, -2.0), 1.5), is_error


def histogram(z: np.ndarray, is_error: np.ndarray) -> np.ndarray:
  hist = errors.error_histogram(jnp.asarray(z, jnp.float32)[None], is_error[None], np.ones((1, z.size), bool))
  return np.asarray(hist[0])


def sklearn_scores(z: np.ndarray, is_error: np.ndarray) -> dict[str, float]:
  accepted_errors, accepted_correct, _ = sk.roc_curve(~is_error, -z, drop_intermediate=False)
  return {
    "AUROC": 100 * sk.roc_auc_score(is_error, z),
    "AUPR_error": 100 * sk.average_precision_score(is_error, z),
    "AUPR_success": 100 * sk.average_precision_score(~is_error, -z),
    "FPR95": 100 * accepted_errors[np.argmax(accepted_correct >= 0.95)],
  }


def test_scores_match_sklearn_on_continuous_scores():
  z, is_error = sample()
  scores = errors.error_scores(histogram(z, is_error))
  for name, want in sklearn_scores(z, is_error).items():
    assert scores[name] == pytest.approx(want, abs=0.1), name
  assert scores["rate"] == pytest.approx(100 * is_error.mean())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scores_match_sklearn_exactly_on_quantised_scores_with_ties(seed):
  z, is_error = sample(seed)
  z = quantised(np.round(z * 2) / 2)
  scores = errors.error_scores(histogram(z, is_error))
  for name, want in sklearn_scores(z, is_error).items():
    assert scores[name] == pytest.approx(want, abs=1e-9), name


def test_risk_coverage_areas_match_sorting():
  rng = np.random.default_rng(0)
  z = errors.BIN_CENTRES[rng.permutation(4096)[:1500]]
  is_error = rng.random(z.size) < special.expit(z / 4)
  scores = errors.error_scores(histogram(z, is_error))
  accepted = np.cumsum(is_error[np.argsort(z)])
  k = np.arange(1, z.size + 1)
  assert scores["AURC"] == pytest.approx(100 * np.mean(accepted / k), abs=1e-9)
  coverage, joint = np.append(0, k / z.size), np.append(0, accepted / z.size)
  assert scores["AUGRC"] == pytest.approx(100 * np.trapezoid(joint, coverage), abs=1e-9)


def test_augrc_identity_of_its_paper_holds_with_ties():
  scores = errors.error_scores(histogram(*sample(4)))
  error, auroc = scores["rate"] / 100, scores["AUROC"] / 100
  want = (1 - auroc) * error * (1 - error) + error**2 / 2
  assert scores["AUGRC"] == pytest.approx(100 * want, abs=1e-9)


def test_aurc_of_ties_is_the_mean_over_their_orders():
  z = np.repeat([-1.0, 1.0], [6, 5])
  is_error = np.array([1, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0], bool)
  rng = np.random.default_rng(0)
  k = np.arange(1, z.size + 1)
  draws = [np.mean(np.cumsum(is_error[np.lexsort((rng.random(z.size), z))]) / k) for _ in range(4000)]
  got = errors.error_scores(histogram(z, is_error))["AURC"]
  assert got == pytest.approx(100 * np.mean(draws), abs=0.5)


def test_ece_matches_brute_force():
  z, is_error = sample()
  z = quantised(z)
  p, total = special.expit(z), 0.0
  for low in range(15):
    inside = (np.minimum((p * 15).astype(int), 14)) == low
    if inside.any():
      total += inside.mean() * abs(p[inside].mean() - is_error[inside].mean())
  assert errors.error_scores(histogram(z, is_error))["ECE"] == pytest.approx(100 * total, abs=1e-9)


@pytest.mark.parametrize("t", [0.0, 0.02, 0.5, 0.7, 1.0])
def test_threshold_scores_match_the_mask(t):
  z, is_error = sample()
  z = quantised(z)
  mask, is_hard = special.expit(z) > t, is_error & (np.arange(z.size) % 3 == 0)
  one = np.ones((1, z.size), bool)
  hard = errors.hard_histogram(jnp.asarray(z)[None], is_hard[None], one)[0]
  got = errors.threshold_scores(histogram(z, is_error), np.asarray(hard), t)
  assert got["IoU"] == pytest.approx(100 * np.sum(mask & is_error) / np.sum(mask | is_error))
  assert got["recall"] == pytest.approx(100 * np.sum(mask & is_error) / np.sum(is_error))
  assert got["hard_recall"] == pytest.approx(100 * np.sum(mask & is_hard) / np.sum(is_hard))
  if mask.any():
    assert got["precision"] == pytest.approx(100 * np.mean(is_error[mask]))
  else:
    assert got["precision"] is None


def test_histogram_is_per_image_ignores_and_adds_up():
  rng = np.random.default_rng(0)
  z = rng.normal(0, 12, (3, 8, 9)).astype(np.float32)
  is_error, valid = rng.random(z.shape) < 0.5, rng.random(z.shape) < 0.7
  hist = jax.jit(errors.error_histogram)(z, is_error, valid)
  assert hist.shape == (3, 2, 4096)
  assert hist.dtype == jnp.int32
  np.testing.assert_array_equal(hist[:, 1].sum(-1), np.sum(is_error & valid, (1, 2)))
  np.testing.assert_array_equal(hist[:, 0].sum(-1), np.sum(~is_error & valid, (1, 2)))
  one = errors.error_histogram(z[1:2], is_error[1:2], valid[1:2])
  np.testing.assert_array_equal(hist[1], one[0])
  changed = np.where(valid, z, 3.0)
  np.testing.assert_array_equal(hist, errors.error_histogram(changed, is_error, valid))


@pytest.mark.parametrize("row", [[], [0], [1]])
def test_undefined_scores_are_none_never_nan(row):
  hist = np.zeros((2, 4096), np.int32)
  hist[row, 2000] = 7
  scores = errors.error_scores(hist)
  assert not any(v is not None and np.isnan(v) for v in scores.values())
  assert scores["AUROC"] is None
  assert scores["AUPR_error"] is None
  assert scores["FPR95"] is None
  assert (scores["AURC"] is None) == (row == [])
  assert errors.threshold_scores(hist, hist[1], 0.999999)["precision"] is None


def test_per_image_scores_stream_and_skip_undefined_images():
  hists = np.stack([histogram(*sample(s, 400)) for s in range(4)])
  hists[2, 1] = 0
  whole = errors.image_score_sums(hists)
  np.testing.assert_allclose(whole, errors.image_score_sums(hists[:1]) + errors.image_score_sums(hists[1:]))
  want = np.mean([errors.error_scores(hists[i])["AUROC"] for i in (0, 1, 3)])
  assert errors.per_image_scores(whole)["AUROC"] == pytest.approx(want)
  assert errors.per_image_scores(np.zeros((3, 2))) == dict.fromkeys(errors.IMAGE_SCORES)


def test_baselines_are_the_logits_of_their_definitions():
  logits = np.random.default_rng(0).normal(0, 2, (5, 7, 4)).astype(np.float32)
  p = special.softmax(logits.astype(np.float64), -1)
  top = np.sort(p, -1)
  got = jax.jit(errors.baseline_logits)(logits, 2.5)
  want = {
    "max_probability": 1 - top[..., -1],
    "temperature": 1 - special.softmax(logits.astype(np.float64) / 2.5, -1).max(-1),
    "entropy": -np.sum(p * np.log(p), -1) / np.log(4),
    "margin": 1 - (top[..., -1] - top[..., -2]),
  }
  assert got.keys() == want.keys()
  for name, value in want.items():
    np.testing.assert_allclose(got[name], special.logit(value), rtol=1e-4, atol=1e-4)


def test_baselines_stay_apart_at_extreme_confidence_and_finite_at_none():
  logits = np.array([[40.0, 0, 0], [60.0, 0, 0], [0, 0, 0], [1e4, 0, -1e4]], np.float32)
  for name, z in errors.baseline_logits(logits).items():
    assert np.all(np.isfinite(z)), name
    assert z[1] < z[0] < z[2], name


def test_curves_are_short_and_consistent_with_the_scores():
  z, is_error = sample(n=20000)
  hist = histogram(z, is_error)
  recall, precision, threshold = curves.precision_recall_curve(hist)
  assert recall.size == precision.size == threshold.size <= 200
  assert recall[-1] == 100
  assert precision[-1] == pytest.approx(100 * is_error.mean())
  coverage, risk = curves.risk_coverage_curve(hist)
  assert coverage.size == risk.size <= 200
  assert coverage[-1] == 100
  assert risk[-1] == pytest.approx(100 * is_error.mean())
  area = np.trapezoid(risk, coverage) / 100
  assert area == pytest.approx(errors.error_scores(hist)["AURC"], abs=0.1)
  predicted, observed, share = curves.reliability_curve(hist)
  assert share.sum() == pytest.approx(100)
  ece = np.sum(share * np.abs(predicted - observed)) / 100
  assert ece == pytest.approx(errors.error_scores(hist)["ECE"])


def test_curves_of_nothing_are_empty():
  empty = np.zeros((2, 4096), np.int32)
  assert curves.precision_recall_curve(empty)[0].size == 0
  assert curves.risk_coverage_curve(empty)[0].size == 0
  assert curves.reliability_curve(empty)[0].size == 0
