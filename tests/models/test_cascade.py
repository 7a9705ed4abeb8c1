"""The cascade's branches, and what coarse and fine result come to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax import assemble
from errseg_jax.config import cascade
from errseg_jax.models.backbones import BACKBONES
from errseg_jax.models.cascade import AttentionBranch, PyramidBranch, Refine
from errseg_jax.models.error_aware import infer
from errseg_jax.structs import Features

REFINES = [
  Refine(combine, selection) for combine in ("probabilities", "logits") for selection in ("soft", "hard")
]
FIELDS = {"resnet": {"depth": 18, "width": 8}}


@pytest.fixture
def logits():
  rng = np.random.default_rng(0)
  coarse, fine = rng.normal(0, 3, (2, 5, 6, 4)).astype(np.float32)
  return jnp.asarray(coarse), jnp.asarray(fine), jnp.asarray(rng.normal(0, 2, (5, 6)), jnp.float32)


@pytest.mark.parametrize("refine", REFINES)
def test_attention_of_nothing_is_the_coarse_result_and_of_everything_the_fine_one(refine, logits):
  coarse, fine, z = logits
  for value, own in ((-jnp.inf, coarse), (jnp.inf, fine)):
    expected = own if refine.combine == "logits" else jax.nn.log_softmax(own)
    assert (refine(coarse, fine, jnp.full_like(z, value)) == expected).all()


def test_probabilities_are_weighted_by_the_attention(logits):
  coarse, fine, z = logits
  a = jax.nn.sigmoid(z)[..., None]
  expected = a * jax.nn.softmax(fine) + (1 - a) * jax.nn.softmax(coarse)
  np.testing.assert_allclose(jnp.exp(Refine()(coarse, fine, z)), expected, atol=1e-6)


def test_logits_are_weighted_by_the_attention(logits):
  coarse, fine, z = logits
  a = jax.nn.sigmoid(z)[..., None]
  np.testing.assert_allclose(Refine("logits")(coarse, fine, z), a * fine + (1 - a) * coarse, atol=1e-5)


def test_hard_selection_takes_one_of_the_two(logits):
  coarse, fine, z = logits
  got = Refine(selection="hard")(coarse, fine, z)
  expected = jnp.where(z[..., None] > 0, jax.nn.log_softmax(fine), jax.nn.log_softmax(coarse))
  assert (got == expected).all()


@pytest.mark.parametrize("refine", REFINES)
def test_the_loss_is_that_of_the_refined_scores(refine, logits):
  label = np.random.default_rng(1).integers(0, 4, (5, 6)).astype(np.uint8)
  scores = jax.nn.log_softmax(refine(*logits))
  expected = -np.take_along_axis(np.asarray(scores), label[..., None].astype(int), -1)[..., 0]
  np.testing.assert_allclose(refine.nll(*logits, jnp.asarray(label)), expected, atol=1e-5)


@pytest.mark.parametrize(
  ("refine", "teaches"), [(Refine(), True), (Refine(detach=True), False), (Refine(selection="hard"), False)]
)
def test_the_attention_learns_from_the_refined_result_unless_it_is_detached_or_decides(
  refine, teaches, logits
):
  label = jnp.zeros((5, 6), jnp.uint8)
  coarse, fine, z = logits
  gradient = jax.grad(lambda z: refine.nll(coarse, fine, z, label).sum())(z)
  assert bool((gradient != 0).any()) == teaches
  assert (jax.grad(lambda x: refine.nll(coarse, x, z, label).sum())(fine) != 0).any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("refine", REFINES)
def test_loss_and_gradient_are_finite_at_large_logits(refine, dtype):
  values = jnp.array([-80.0, 0.0, 80.0], dtype)
  coarse, fine, z = jnp.meshgrid(values, values, values, indexing="ij")
  coarse, fine = (jnp.stack([x, -x, 0 * x], -1) for x in (coarse, fine))
  label = jnp.full(z.shape, 1, jnp.uint8)
  value, gradients = jax.value_and_grad(lambda *x: refine.nll(*x, label).sum(), (0, 1, 2))(coarse, fine, z)
  assert np.isfinite(value)
  assert all(np.isfinite(np.asarray(g, np.float32)).all() for g in gradients)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_a_cascade_stands_on_every_backbone(name, tiny_config):
  """Abstractly: shapes alone."""
  backbone = {"name": name, "output_stride": 8, **FIELDS.get(name, {})}
  config = cascade(tiny_config(segmenter__backbone=backbone), 16)
  model = assemble.model(assemble.with_defaults(config), 3)
  image = jax.ShapeDtypeStruct((2, 32, 48, 3), jnp.uint8)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  out = jax.eval_shape(lambda v, x: infer(model, v, x), variables, image)
  assert set(variables["params"]) == {"segmenter", "error", "detail"}
  assert out.semantic.shape == out.detail.shape == out.refined.shape == (2, 32, 48, 3)
  assert out.error.shape == (2, 32, 48)


def test_both_branches_want_the_networks_features():
  features = Features(jnp.zeros((1, 4, 4, 3)))
  image, semantic = jnp.zeros((1, 8, 8, 3), jnp.uint8), jnp.zeros((1, 8, 8, 3))
  for branch in (AttentionBranch(), PyramidBranch(3)):
    with pytest.raises(ValueError, match=r"Features\.high"):
      branch.init(jax.random.key(0), image, features, semantic)
