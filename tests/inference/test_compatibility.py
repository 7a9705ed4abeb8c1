"""A compatibility learned from a planted confusion."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from errseg_jax.inference.compatibility import Candidates, fit_compatibility, loss, potts
from errseg_jax.models.crf import GuidanceCRF, mean_field

CRF = GuidanceCRF(iterations=2, radius=12, alpha=3.0, lam=0.0)
SIZE = 12


def planted(seed=0):
  """Two images of one colour each: what the network calls 2 beside 0 is 1, and beside 3 it is 2."""
  label = np.zeros((2, SIZE, SIZE), int)
  label[0, :, SIZE // 2 :], label[1, :, : SIZE // 2], label[1, :, SIZE // 2 :] = 1, 3, 2
  shown = np.where(label == 1, 2, label)
  scores = 3 * np.eye(4)[shown] + 2 * np.eye(4)[label]  # the truth is behind by 1
  scores += np.random.default_rng(seed).normal(0, 0.05, scores.shape)
  image = np.full((2, SIZE, SIZE, 3), 120, np.uint8)
  label[:, :1] = 255
  return Candidates(image, scores.astype(np.float16), label.astype(np.uint8))


def labels(crf, batch, matrix=None):
  return np.asarray(
    jax.jit(lambda b: mean_field(crf, b.image, b.scores, b.presence, matrix)[0])(batch)
  ).argmax(-1)


def test_it_learns_which_classes_go_together():
  matrix, losses = fit_compatibility(CRF, map(planted, range(60)))
  assert matrix.shape == (4, 4)
  assert losses.shape == (60,)
  assert losses[-1] < 0.5 * losses[0]
  assert matrix[1, 0] < matrix[2, 0]  # beside class 0, class 1 costs less
  batch = planted(seed=99)
  shown = batch.label != 255
  learned = dataclasses.replace(CRF, compatibility="learned")
  np.testing.assert_array_equal(labels(learned, batch, matrix)[shown], batch.label[shown])
  wrong = (batch.label == 1) & shown
  assert (labels(CRF, batch)[wrong] == 2).all()  # Potts repairs none


def test_it_starts_at_potts_and_leaves_void_out():
  batch = planted()
  (start,) = fit_compatibility(CRF, [batch], learning_rate=0.0)[:1]
  np.testing.assert_array_equal(start, potts(4))
  learned = dataclasses.replace(CRF, compatibility="learned")
  of = jax.jit(lambda b: loss(learned, potts(4), b))
  u = np.float32(mean_field(learned, batch.image, batch.scores, None, potts(4))[0])
  log_p = np.asarray(jax.nn.log_softmax(u))
  label = np.minimum(batch.label, 3).astype(int)
  each = -np.take_along_axis(log_p, label[..., None], -1)[..., 0]
  np.testing.assert_allclose(of(batch), each[batch.label != 255].mean(), rtol=1e-4)
  void = dataclasses.replace(batch, label=np.full_like(batch.label, 255))
  assert of(void) == 0


def test_without_a_batch_there_is_nothing_to_learn():
  with pytest.raises(ValueError, match="no batch"):
    fit_compatibility(CRF, itertools.repeat(planted(), 0))
