import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax.inference.choice import Choice
from errseg_jax.inference.label_quality import belief, soft_minimum, verdict
from errseg_jax.structs import Outputs


@pytest.fixture
def outputs():
  keys = jax.random.split(jax.random.key(0), 3)
  shape = (2, 4, 5, 3)
  semantic, detail = (4 * jax.random.normal(k, shape) for k in keys[:2])
  return Outputs(semantic, 2 * jax.random.normal(keys[2], shape[:-1]), detail)


@pytest.mark.parametrize("fusion", ["semantic", "mask", "soft", "detail"])
def test_the_error_map_says_how_sure_and_the_fusion_what_instead(outputs, fusion):
  choice = Choice(fusion=fusion, scale=0.7, offset=-0.4)
  p = belief(outputs, "error_map", fusion, choice.arrays())
  np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)
  frozen = outputs.semantic.argmax(-1)
  own = jnp.take_along_axis(p, frozen[..., None], -1)[..., 0]
  np.testing.assert_allclose(own, jax.nn.sigmoid(-(0.7 * outputs.error - 0.4)), rtol=1e-5)
  if fusion == "detail":
    others = np.array([p, jax.nn.softmax(outputs.detail)]) * (1 - np.asarray(jax.nn.one_hot(frozen, 3)))
    ours, theirs = others / others.sum(-1, keepdims=True)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_baseline_is_the_frozen_network_alone(outputs):
  p = belief(outputs, "max_probability", "mask", Choice().arrays())
  np.testing.assert_allclose(p, jax.nn.softmax(outputs.semantic), rtol=1e-6)


def test_a_frozen_network_sure_to_the_last_bit_gives_numbers():
  semantic = jnp.array([[[[200.0, 0.0, 0.0]]]])
  sure = Outputs(semantic, jnp.zeros((1, 1, 1)), semantic)
  p = belief(sure, "error_map", "soft", Choice().arrays())
  np.testing.assert_allclose(p[0, 0, 0], [0.5, 0.25, 0.25], rtol=1e-6)


def test_soft_minimum_lies_between_minimum_and_mean_of_the_valid_pixels():
  values = jnp.array([[[0.9, 0.8, 0.1, 0.0]], [[0.9, 0.8, 0.7, 0.0]], [[0.1, 0.2, 0.3, 0.4]]])
  valid = jnp.array([[[True, True, True, False]]] * 2 + [[[False] * 4]])
  low, high, none = soft_minimum(values, valid)
  assert 0.1 < low < 0.15
  weight = np.exp(np.array([0.1, 0.2, 0.3]) / 0.1)
  assert high == pytest.approx(weight @ [0.9, 0.8, 0.7] / weight.sum(), rel=1e-5)
  assert none == 1


def test_only_labelled_pixels_that_differ_have_evidence():
  p = jnp.array([[[[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]]])
  out = verdict(p, jnp.array([[[0, 1, 0, 255]]], jnp.uint8))
  np.testing.assert_array_equal(out["predicted"], [[[0, 0, 1, 0]]])
  np.testing.assert_allclose(out["evidence"], [[[0, np.log(9), np.log(4), 0]]], rtol=1e-2)
  assert (int(out["labelled"][0]), int(out["contradicted"][0])) == (3, 2)
  weight = np.exp(np.array([0.1, 0.9, 0.8]) / 0.1)
  assert float(out["quality"][0]) == pytest.approx(weight @ [0.9, 0.1, 0.2] / weight.sum(), rel=1e-4)
