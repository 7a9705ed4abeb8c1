import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax.metrics.errors import baseline_logits, error_histogram, error_scores
from errseg_jax.models.detail_branch import DetailBranch
from errseg_jax.models.error_branch import (
  ErrorBranch,
  confidence_maps,
  disbelief_logit,
  max_probability_logit,
  unweighted,
)
from errseg_jax.models.resize import resize
from errseg_jax.structs import Features

B, H, W, C = 2, 45, 61, 4
SIZES = {s: (-(-H // s), -(-W // s)) for s in (2, 4, 8, 16)}


def normal(*shape, seed=0, scale=1.0):
  return scale * jax.random.normal(jax.random.key(seed), shape)


def make_features(strides=(2, 4, 8), high=True):
  low = tuple(normal(B, *SIZES[s], 3 + s, seed=s) for s in strides)
  return Features(
    logits=normal(B, *SIZES[4], C, seed=1, scale=4.0),
    low=low,
    high=normal(B, *SIZES[16], 8, seed=2) if high else None,
    strides=strides,
  )


IMAGE = jax.random.randint(jax.random.key(3), (B, H, W, 3), 0, 256).astype(jnp.uint8)
ANY = {
  "all": make_features(),
  "no stride 2": make_features((4, 8)),
  "only stride 16": make_features((16,)),
  "no high": make_features(high=False),
  "logits alone": make_features((), high=False),
}


def start(branch, *args):
  """(output at step 0, parameters)."""
  return jax.jit(branch.init_with_output)(jax.random.key(0), *args)


def test_max_probability_logit_is_the_logit_of_one_minus_the_largest_probability():
  logits = normal(50, C, scale=3.0)
  p = jax.nn.softmax(logits).max(-1)
  np.testing.assert_allclose(max_probability_logit(logits), jnp.log((1 - p) / p), atol=1e-3)
  extreme = max_probability_logit(jnp.array([[1e4, 0.0, 0.0], [1e4, 1e4, 0.0]]))
  np.testing.assert_allclose(extreme, [-20, 0])


def test_unweighted_logits_undo_the_class_weights():
  p, weights = jnp.array([0.5, 0.3, 0.2]), (0.5, 1.0, 4.0)
  tilted = p * jnp.array(weights) / (p * jnp.array(weights)).sum()
  np.testing.assert_allclose(jax.nn.softmax(unweighted(jnp.log(tilted), weights)), p, rtol=1e-5)
  np.testing.assert_allclose(unweighted(p, weights, 0.0), p)
  assert unweighted(p, ()) is p


def test_disbelief_is_the_logit_of_one_minus_the_label_s_probability():
  logits, labels = normal(50, C, scale=3.0), jnp.arange(50) % C
  p = jnp.take_along_axis(jax.nn.softmax(logits), labels[:, None], 1)[:, 0]
  np.testing.assert_allclose(disbelief_logit(logits, labels), jnp.log((1 - p) / p), atol=1e-3)


def test_confidence_maps_are_entropy_maximum_and_margin():
  p = jnp.array([[0.5, 0.25, 0.125, 0.125], [0.25, 0.25, 0.25, 0.25]])
  np.testing.assert_allclose(confidence_maps(jnp.log(p)), [[1.75 / 2, 0.5, 0.25], [1, 0.25, 0]], atol=1e-6)


def scores(z, semantic, label):
  wrong = semantic.argmax(-1) != label
  return error_scores(np.asarray(error_histogram(z, wrong, jnp.ones_like(wrong)).sum(0)))


@pytest.mark.parametrize("prior", ["msp", "detail"])
def test_with_a_prior_the_branch_starts_at_the_prior_s_ranking(prior):
  features = make_features()
  semantic = resize(features.logits, (H, W))
  detail = semantic + normal(B, H, W, C, seed=5, scale=2.0)
  label = jax.random.categorical(jax.random.key(6), semantic)
  logit, _ = start(ErrorBranch(8, prior), IMAGE, features, semantic, detail)
  best = {
    "msp": baseline_logits(semantic)["max_probability"],
    "detail": disbelief_logit(detail, semantic.argmax(-1)),
  }[prior]
  got, want = scores(logit, semantic, label), scores(best, semantic, label)
  for name in ("AUROC", "AUPR_error"):
    assert 0 < want[name] < 100
    assert got[name] == pytest.approx(want[name], abs=1e-4)


def test_the_prior_detail_cannot_do_without_the_detail_branch():
  features = make_features()
  with pytest.raises((ValueError, AttributeError)):
    start(ErrorBranch(8, "detail"), IMAGE, features, resize(features.logits, (H, W)))


@pytest.mark.parametrize("prior", ["none", "msp"])
@pytest.mark.parametrize("gate", ["sigmoid", "relu"])
@pytest.mark.parametrize("name", ANY)
def test_the_error_branch_takes_whatever_features_there_are(name, gate, prior):
  semantic = resize(ANY[name].logits, (H, W))
  branch = ErrorBranch(8, prior, gate)
  out, _ = jax.eval_shape(
    lambda f, s: branch.init_with_output(jax.random.key(0), IMAGE, f, s), ANY[name], semantic
  )
  assert out.shape == (B, H, W)


def test_without_prior_the_error_logit_starts_near_zero_and_depends_on_the_image():
  features = make_features()
  semantic = resize(features.logits, (H, W))
  logit, variables = start(ErrorBranch(8), IMAGE, features, semantic)
  assert np.abs(logit).max() < 2
  other = ErrorBranch(8).apply(variables, 255 - IMAGE, features, semantic)
  assert np.abs(other - logit).max() > 1e-6


@pytest.mark.parametrize(("name", "encoder"), [("all", "all"), ("logits alone", "missing")])
def test_the_residual_detail_branch_starts_exactly_at_the_frozen_logits(name, encoder):
  semantic = resize(ANY[name].logits, (H, W))
  branch = DetailBranch(C, (8, 8, 8), residual=True, encoder=encoder)
  logits, variables = start(branch, IMAGE, ANY[name], semantic)
  np.testing.assert_array_equal(logits, semantic)

  def correction(params):
    return jnp.sin(branch.apply({"params": params}, IMAGE, ANY[name], semantic)).sum()

  slope = jax.jit(jax.grad(correction))(variables["params"])["classifier"]["kernel"]
  assert np.asarray(slope).any()


@pytest.mark.parametrize("encoder", ["missing", "all"])
@pytest.mark.parametrize("gate", ["sigmoid", "relu"])
@pytest.mark.parametrize("name", ANY)
def test_the_detail_branch_fills_the_strides_that_a_network_lacks(name, gate, encoder):
  features = ANY[name]
  semantic = resize(features.logits, (H, W))
  branch = DetailBranch(C, (8, 6, 4), gate=gate, encoder=encoder)
  out, variables = jax.eval_shape(
    lambda f, s: branch.init_with_output(jax.random.key(0), IMAGE, f, s), features, semantic
  )
  assert out.shape == (B, H, W, C)
  lacking = {8, 4, 2} - set(features.strides)
  assert ("encoder" in variables["params"]) == (encoder == "all" or bool(lacking))


def test_dropout_of_a_branch_acts_in_training_only():
  features = make_features()
  semantic = resize(features.logits, (H, W))
  branch = DetailBranch(C, (8, 8, 8), dropout=0.5)
  _, variables = start(branch, IMAGE, features, semantic)

  @jax.jit
  def run(seed):
    rngs = {"dropout": jax.random.key(seed)}
    return branch.apply(variables, IMAGE, features, semantic, True, rngs=rngs)

  assert np.abs(run(0) - run(1)).max() > 1e-4
  np.testing.assert_array_equal(run(0), run(0))
