import numpy as np

from errseg_jax.data import frequencies


def source(*labels):
  return [{"label": np.array(label, np.uint8)} for label in labels]


def test_shares_are_of_labelled_pixels():
  got = frequencies.class_frequencies(source([[0, 0], [1, 255]], [[0, 255], [255, 255]]), 3)
  np.testing.assert_allclose(got, [0.75, 0.25, 0])


def test_counts_are_of_each_image():
  got = frequencies.class_counts(source([[0, 0], [1, 255]], [[0, 255], [255, 255]]), 3)
  np.testing.assert_array_equal(got, [[2, 1, 0], [1, 0, 0]])


def test_without_a_labelled_pixel_every_share_is_zero():
  np.testing.assert_array_equal(frequencies.class_frequencies(source([[255]]), 2), [0, 0])


def test_a_large_source_is_sampled_from_end_to_end(monkeypatch):
  monkeypatch.setattr(frequencies, "MOST", 3)
  labels = [[[255]]] * 9
  labels[0], labels[4], labels[8] = [[0]], [[1]], [[1]]
  np.testing.assert_allclose(frequencies.class_frequencies(source(*labels), 2), [1 / 3, 2 / 3])
