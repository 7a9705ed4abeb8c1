"""Both forms of the fused labels against what `inference` makes of full-size logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax.inference.choice import Choice, fused_probabilities, rebalanced
from errseg_jax.inference.network import to_prediction
from errseg_jax.kernels import body, fused_labels

FORMS = ("banded", "pallas")
WEIGHTS = (0.5, 2.0, 1.0)
CHOICE = Choice(threshold=0.4, scale=1.5, offset=-0.2, temperature=1.3, unweight=0.75)


def expected(kit, coarse, fusion, weights, choice):
  """(Prediction, fused probabilities, rebalanced Outputs) of full-size logits."""
  outputs = rebalanced(kit.full_size(coarse), weights, choice)
  scores = fused_probabilities(outputs, fusion, choice)
  return to_prediction(outputs, scores, choice), scores, outputs


def assert_labels(got, want, scores):
  """Equal wherever the two best classes are told apart."""
  top = jax.lax.top_k(scores, 2)[0]
  sure = np.asarray(top[..., 0] - top[..., 1] > 1e-5)
  assert sure.mean() > 0.9
  np.testing.assert_array_equal(np.asarray(got)[sure], np.asarray(want)[sure])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
  ("fusion", "num_classes", "align_corners", "fields"),
  [
    ("mask", 3, False, {"prior": "detail", "detail_weights": WEIGHTS, "residual": True, "finer": 2}),
    ("soft", 3, True, {"prior": "msp"}),
    ("mean", 19, True, {}),
    ("detail", 3, False, {}),
    ("semantic", 3, False, {}),
  ],
)
def test_labels_probability_and_confidence(
  kit, monkeypatch, form, fusion, num_classes, align_corners, fields
):
  monkeypatch.setattr(body, "UNROLLED", 3)
  coarse, _ = kit.make_maps(num_classes, align_corners=align_corners, **fields)
  weights, choice = (WEIGHTS if num_classes == 3 else ()), CHOICE.arrays()
  want, scores, outputs = expected(kit, coarse, fusion, weights, choice)
  got = jax.jit(lambda c: fused_labels(c.replace(kernels=form), fusion, choice, weights))(coarse)
  assert got.labels.dtype == got.semantic_labels.dtype == jnp.uint8
  assert_labels(got.labels, want.labels, scores)
  assert_labels(got.semantic_labels, want.semantic_labels, jax.nn.softmax(outputs.semantic))
  assert_labels(got.detail_labels, want.detail_labels, jax.nn.softmax(outputs.detail))
  np.testing.assert_allclose(got.error_probability, want.error_probability, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(got.confidence, scores.max(-1), rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_without_branches_the_network_s_own_doubt_is_told(kit, form):
  coarse, _ = kit.make_maps()
  choice = CHOICE.arrays()
  outputs = kit.full_size(coarse).replace(error=None, detail=None)
  want = to_prediction(outputs, jax.nn.softmax(outputs.semantic), choice)
  alone = coarse.replace(error=None, detail=None, kernels=form)
  got = jax.jit(lambda c: fused_labels(c, "semantic", choice))(alone)
  np.testing.assert_allclose(got.error_probability, want.error_probability, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(got.labels, got.detail_labels)
  assert_labels(got.labels, want.labels, jax.nn.softmax(outputs.semantic))


def test_the_learned_gate_is_the_reference_s(kit):
  coarse, _ = kit.make_maps()
  assert fused_labels(coarse, "gate", CHOICE.arrays()) is None
