import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax.inference.choice import Choice, fused_probabilities
from errseg_jax.models.fusion import FUSIONS, detail_share, fuse, gate_features
from errseg_jax.structs import Outputs

rng = np.random.default_rng(0)
SEMANTIC, DETAIL = (rng.normal(0, 3, (2, 5, 6, 4)).astype(np.float32) for _ in range(2))
ERROR = rng.normal(0, 2, (2, 5, 6)).astype(np.float32)
GATE = rng.normal(0, 3, 6).astype(np.float32)


def softmax(x):
  e = np.exp(x - x.max())
  return e / e.sum()


def brute_force(share):
  """Eq. 5, pixel by pixel, with share(index) the weight of the detail branch."""
  out = np.zeros(SEMANTIC.shape)
  for i in np.ndindex(ERROR.shape):
    e = share(i)
    out[i] = e * softmax(DETAIL[i]) + (1 - e) * softmax(SEMANTIC[i])
  return out


@pytest.mark.parametrize("t", [0.1, 0.5, 0.7])
def test_mask_is_equation_5(t):
  share = detail_share(SEMANTIC, DETAIL, jnp.array(ERROR), "mask", t)
  assert set(np.unique(share)) == {0, 1}
  want = brute_force(lambda i: 1.0 if 1 / (1 + np.exp(-ERROR[i])) > t else 0.0)
  np.testing.assert_allclose(fuse(SEMANTIC, DETAIL, share), want, atol=1e-5)


def test_soft_weighs_by_the_error_probability():
  share = detail_share(SEMANTIC, DETAIL, jnp.array(ERROR), "soft")
  want = brute_force(lambda i: 1 / (1 + np.exp(-ERROR[i])))
  np.testing.assert_allclose(fuse(SEMANTIC, DETAIL, share), want, atol=1e-5)


def test_the_gate_is_a_weight_between_zero_and_one():
  features = gate_features(jnp.array(SEMANTIC), jnp.array(DETAIL), jnp.array(ERROR))
  assert features.shape == (*ERROR.shape, 6)
  share = detail_share(jnp.array(SEMANTIC), jnp.array(DETAIL), jnp.array(ERROR), "gate", gate=GATE)
  assert (share >= 0).all()
  assert (share <= 1).all()
  assert share.std() > 0.01
  want = brute_force(lambda i: 1 / (1 + np.exp(-float(features[i] @ GATE))))
  np.testing.assert_allclose(fuse(SEMANTIC, DETAIL, share), want, atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_gives_probabilities_and_semantic_is_the_frozen_result(fusion):
  outputs = Outputs(*map(jnp.array, (SEMANTIC, ERROR, DETAIL)))
  p = fused_probabilities(outputs, fusion, Choice(gate=tuple(GATE)).arrays())
  np.testing.assert_allclose(p.sum(-1), 1, atol=1e-5)
  frozen = jax.nn.softmax(SEMANTIC)
  assert (np.abs(p - frozen).max() < 1e-7) == (fusion == "semantic")


@pytest.mark.parametrize(("fusion", "raw"), [("mask", False), ("soft", False), ("gate", True)])
def test_calibration_moves_mask_and_soft_but_not_the_gate(fusion, raw):
  """The gate is fitted on raw logits: calibrating its input would apply the calibration twice."""
  outputs = Outputs(*map(jnp.array, (SEMANTIC, ERROR, DETAIL)))
  a = fused_probabilities(outputs, fusion, Choice(gate=tuple(GATE)).arrays())
  b = fused_probabilities(outputs, fusion, Choice(gate=tuple(GATE), scale=0.5, offset=2.0).arrays())
  assert (np.abs(a - b).max() < 1e-7) == raw


def test_an_unknown_fusion_is_refused():
  with pytest.raises(ValueError, match="known: semantic"):
    detail_share(SEMANTIC, DETAIL, ERROR, "median")
