import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from sklearn import metrics as sk

from errseg_jax.metrics import segmentation

CLASSES = ("sky", "road", "car", "tree")


def blobs(seed: int, shape=(2, 40, 56)) -> np.ndarray:
  rng = np.random.default_rng(seed)
  small = rng.integers(0, 3, (shape[0], shape[1] // 8, shape[2] // 8))
  return np.kron(small, np.ones((1, 8, 8), int)).astype(np.uint8)


@pytest.fixture
def pair():
  labels, predictions = blobs(0), np.roll(blobs(0), 1, axis=2)
  predictions[:, 10:14] = 1
  labels[0, 3:9, 5:20] = 255
  return labels, predictions


def test_confusion_matches_sklearn(pair):
  labels, predictions = pair
  got = jax.jit(segmentation.confusion_matrix, static_argnums=2)(labels, predictions, 4)
  valid = labels != 255
  want = sk.confusion_matrix(labels[valid], predictions[valid], labels=range(4))
  assert got.dtype == jnp.int32
  np.testing.assert_array_equal(got, want)


def test_confusion_of_parts_adds_up(pair):
  labels, predictions = pair
  parts = [segmentation.confusion_matrix(y, p, 4) for y, p in zip(labels, predictions, strict=True)]
  np.testing.assert_array_equal(sum(parts), segmentation.confusion_matrix(labels, predictions, 4))


def test_scores_match_sklearn_and_leave_out_the_absent_class(pair):
  labels, predictions = pair
  valid = labels != 255
  y, p = labels[valid], predictions[valid]
  confusion = segmentation.confusion_matrix(labels, predictions, 4)
  scores = segmentation.segmentation_scores(confusion, CLASSES)
  jaccard = 100 * sk.jaccard_score(y, p, average=None)
  np.testing.assert_allclose([scores["IoU"][c] for c in CLASSES[:3]], jaccard, atol=1e-9)
  assert scores["IoU"]["tree"] is None
  assert scores["Acc"]["tree"] is None
  assert scores["mIoU"] == pytest.approx(jaccard.mean())
  assert scores["aAcc"] == pytest.approx(100 * sk.accuracy_score(y, p))
  assert scores["mAcc"] == pytest.approx(100 * sk.balanced_accuracy_score(y, p))
  assert scores["mDice"] == pytest.approx(100 * sk.f1_score(y, p, average="macro"))


def test_class_that_is_only_predicted_has_iou_zero():
  confusion = np.array([[5, 1], [0, 0]])
  scores = segmentation.segmentation_scores(confusion, ("a", "b"))
  assert scores["IoU"]["b"] == 0
  assert scores["Acc"]["b"] is None


def test_a_class_declared_absent_leaves_every_mean_even_where_it_is_predicted():
  confusion = np.array([[6, 2, 1], [1, 9, 0], [0, 0, 0]])
  counted = segmentation.segmentation_scores(confusion, ("a", "b", "cow"))
  scores = segmentation.segmentation_scores(confusion, ("a", "b", "cow"), ("cow",))
  assert counted["IoU"]["cow"] == 0
  assert scores["IoU"]["cow"] is None
  # Its one pixel is still an error of class a.
  assert scores["IoU"]["a"] == counted["IoU"]["a"] == 60
  assert scores["mIoU"] == pytest.approx((60 + 75) / 2)
  assert scores["mDice"] == pytest.approx(100 * (12 / 16 + 18 / 21) / 2)
  assert (scores["aAcc"], scores["mAcc"]) == (counted["aAcc"], counted["mAcc"])


def test_a_class_declared_absent_is_scored_where_the_truth_has_it():
  confusion = np.array([[6, 2, 1], [1, 9, 0], [2, 0, 2]])
  declared = segmentation.segmentation_scores(confusion, ("a", "b", "cow"), ("cow",))
  assert declared == segmentation.segmentation_scores(confusion, ("a", "b", "cow"))


def test_a_class_left_out_has_no_boundary_iou():
  counts = np.array([[4, 0], [8, 3]])
  assert segmentation.boundary_iou(counts, ("a", "cow"))["mBIoU"] == 25
  scores = segmentation.boundary_iou(counts, ("a", "cow"), ("cow",))
  assert (scores["mBIoU"], scores["BIoU"]["cow"]) == (50, None)


def test_nothing_valid_is_none():
  labels = np.full((1, 8, 8), 255, np.uint8)
  confusion = segmentation.confusion_matrix(labels, np.zeros_like(labels), 4)
  scores = segmentation.segmentation_scores(confusion, CLASSES)
  assert [scores[k] for k in ("mIoU", "aAcc", "mAcc", "mDice")] == [None] * 4
  assert set(scores["IoU"].values()) == {None}
  counts = segmentation.boundary_counts(labels, np.zeros_like(labels), 4, 2)
  assert segmentation.boundary_iou(counts, CLASSES)["mBIoU"] is None
  assert segmentation.top_confusions(confusion, CLASSES, 3) == []


def brute_force_boundary(labels, predictions, num_classes, radius):
  square = np.ones((2 * radius + 1,) * 2, bool)
  counts = np.zeros((2, num_classes), int)
  for y, p in zip(labels, predictions, strict=True):
    valid = y != 255
    for c in range(num_classes):
      bands = [valid & (m == c) & ndimage.binary_dilation(valid & (m != c), square) for m in (y, p)]
      counts[:, c] += [np.sum(bands[0] & bands[1]), np.sum(bands[0] | bands[1])]
  return counts


@pytest.mark.parametrize("radius", [1, 2, 5])
def test_boundary_counts_match_erosion_of_each_class(pair, radius):
  got = jax.jit(segmentation.boundary_counts, static_argnums=(2, 3))(*pair, 4, radius)
  np.testing.assert_array_equal(got, brute_force_boundary(*pair, 4, radius))


def test_boundary_counts_ignore_padding_and_predictions_on_ignored_pixels(pair):
  labels, predictions = pair
  want = segmentation.boundary_counts(labels, predictions, 4, 3)
  changed = np.where(labels == 255, 3, predictions)
  margin = ((0, 0), (0, 5), (0, 7))
  padded = np.pad(labels, margin, constant_values=255), np.pad(changed, margin)
  np.testing.assert_array_equal(segmentation.boundary_counts(*padded, 4, 3), want)


def test_boundary_iou_of_a_perfect_prediction_is_100():
  labels = blobs(3)
  scores = segmentation.boundary_iou(
    segmentation.boundary_counts(labels, labels, 4, segmentation.boundary_radius(40, 56)), CLASSES
  )
  assert scores["mBIoU"] == 100
  assert scores["BIoU"]["tree"] is None


def test_boundary_radius_is_two_percent_of_the_diagonal():
  assert segmentation.boundary_radius(1024, 2048) == 46
  assert segmentation.boundary_radius(8, 8) == 1


def test_top_confusions_are_shares_of_the_truth():
  confusion = np.array([[90, 10, 0], [1, 1, 2], [0, 0, 7]])
  assert segmentation.top_confusions(confusion, ("a", "b", "c"), 2) == [
    ("b", "c", 50.0),
    ("b", "a", 25.0),
  ]
