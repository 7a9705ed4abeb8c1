import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from errseg_jax.metrics.presence import presence_histogram, presence_scores, present_classes

NAMES = ("a", "b", "c", "d")


def labels(rows):
  """Images of 2 x 2 pixels that show the classes of each row; the rest is ignored."""
  out = np.full((len(rows), 2, 2), 255, np.uint8)
  for image, classes in zip(out, rows, strict=True):
    image.ravel()[: len(classes)] = classes
  return jnp.asarray(out)


def test_a_class_is_there_with_one_pixel_and_void_is_no_class():
  found = present_classes(labels([(0, 3), (), (1,)]), 4)
  np.testing.assert_array_equal(found, [[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]])


def test_scores_are_those_of_scikit_learn_and_batches_add_up():
  rng = np.random.default_rng(0)
  shown = rng.random((60, 4)) < (0.3, 0.5, 0.7, 0.1)
  shown[:, 0] |= ~shown.any(1)
  scores = (rng.normal(0, 2, shown.shape) + 2 * shown).astype(np.float32)
  rows = [tuple(np.flatnonzero(row)) for row in shown]
  histogram = sum(
    np.asarray(presence_histogram(jnp.asarray(scores[i : i + 20]), labels(rows[i : i + 20])))
    for i in (0, 20, 40)
  )
  found = presence_scores(histogram, NAMES)
  for c, name in enumerate(NAMES):
    assert found["AP"][name] == pytest.approx(
      100 * average_precision_score(shown[:, c], scores[:, c]), abs=0.5
    )
    assert found["F1"][name] == pytest.approx(100 * f1_score(shown[:, c], scores[:, c] > 0), abs=1e-9)
    assert found["images"][name] == shown[:, c].sum()
  assert found["mAP"] == pytest.approx(np.mean(list(found["AP"].values())))


def test_images_without_a_valid_pixel_count_nowhere_and_unknown_scores_leave_the_mean():
  scores = jnp.asarray([[5.0, -5.0, -5.0, 5.0], [-5.0, 5.0, 5.0, 5.0]])
  found = presence_scores(np.asarray(presence_histogram(scores, labels([(0,), ()]))), NAMES)
  assert found["AP"] == dict.fromkeys(NAMES)
  assert found["mAP"] is None
  assert found["F1"] == {"a": 100.0, "b": None, "c": None, "d": 0.0}
  assert found["mF1"] == 50.0
