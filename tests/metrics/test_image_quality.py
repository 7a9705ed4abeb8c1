import numpy as np
import pytest

from errseg_jax.metrics.image_quality import expected_counts, expected_iou, expected_miou, image_miou


def test_where_errors_balance_the_expected_iou_is_the_real_one():
  """A symmetric confusion, and P_ep the frequency of errors of each label."""
  confusion = np.array([[50, 6, 4], [6, 20, 0], [4, 0, 10]])
  labels = np.repeat(np.arange(3), confusion.sum(0))
  p = (1 - np.diag(confusion) / confusion.sum(0))[labels]
  counts = expected_counts(labels.reshape(10, 10), p.reshape(10, 10), 3)
  np.testing.assert_allclose(expected_iou(*counts), [100 * 50 / 70, 100 * 20 / 32, 100 * 10 / 18])
  assert expected_miou(*counts) == pytest.approx(image_miou(confusion))


def test_an_absent_class_is_left_out():
  labels, p = np.array([[0, 0, 2, 2]], np.uint8), np.array([[0.0, 0.0, 0.5, 0.5]])
  counts = expected_counts(labels, p, 4)
  np.testing.assert_allclose(expected_iou(*counts), [100, np.nan, 100 / 3, np.nan])
  assert expected_miou(*counts) == pytest.approx((100 + 100 / 3) / 2)
