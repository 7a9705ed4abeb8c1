import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax import assemble
from errseg_jax.models.error_branch import disbelief_logit, unweighted
from errseg_jax.models.resize import resize


@pytest.fixture(scope="module")
def network(tiny_config):
  model = assemble.model(tiny_config(segmenter__head__dropout=0.5), 3)
  image = jax.random.randint(jax.random.key(1), (4, 45, 61, 3), 0, 256).astype(jnp.uint8)
  return model, jax.jit(model.init)(jax.random.key(0), image), image


def run(network, train, seed=0):
  model, variables, image = network

  @jax.jit
  def forward(variables, image):
    return model.apply(
      variables,
      image,
      train=train,
      mutable=["batch_stats"],
      rngs={"dropout": jax.random.key(seed)},
    )

  return forward(variables, image)


def test_outputs_are_at_the_size_of_an_image_that_no_stride_divides(network):
  outputs, _ = run(network, ())
  assert outputs.semantic.shape == outputs.detail.shape == (4, 45, 61, 3)
  assert outputs.error.shape == (4, 45, 61)


def test_the_parameters_have_one_group_per_part(network):
  _, variables, _ = network
  assert set(variables["params"]) == {"segmenter", "error", "detail"}
  assert set(variables["batch_stats"]) == {"segmenter"}


def test_a_frozen_segmenter_is_at_rest_while_a_branch_trains(network):
  rest, _ = run(network, ())
  outputs, changed = run(network, ("detail",))
  np.testing.assert_array_equal(outputs.semantic, rest.semantic)
  for new, old in zip(
    jax.tree.leaves(changed["batch_stats"]), jax.tree.leaves(network[1]["batch_stats"]), strict=True
  ):
    np.testing.assert_array_equal(new, old)


def test_a_training_segmenter_has_dropout_and_moving_statistics(network):
  (a, changed), (b, _) = run(network, ("segmenter",), 0), run(network, ("segmenter",), 1)
  assert np.abs(a.semantic - b.semantic).max() > 1e-3
  pairs = zip(
    jax.tree.leaves(changed["batch_stats"]), jax.tree.leaves(network[1]["batch_stats"]), strict=True
  )
  assert all(np.asarray(new != old).any() for new, old in pairs)


@pytest.mark.parametrize("wanted", [(), ("error",), ("detail",), ("error", "detail")])
def test_only_the_wanted_branches_run(network, wanted):
  model, variables, image = network
  outputs = jax.eval_shape(lambda v, x: model.apply(v, x, wanted=wanted), variables, image)
  assert (outputs.error is not None) == ("error" in wanted)
  assert (outputs.detail is not None) == ("detail" in wanted)


def test_logits_reach_the_image_s_size_as_the_head_says(tiny_config, network):
  """A published network resizes its logits with or without aligned corners."""
  _, variables, image = network
  plain, aligned = (assemble.model(tiny_config(segmenter__head__align_corners=a), 3) for a in (False, True))
  for model in (plain, aligned):
    features = jax.jit(model.segmenter.apply)(
      {kind: tree["segmenter"] for kind, tree in variables.items()}, image
    )
    out = jax.jit(lambda v, x, m=model: m.apply(v, x, wanted=()))(variables, image)
    want = resize(features.logits, image.shape[1:3], model is aligned)
    np.testing.assert_allclose(out.semantic, want, atol=1e-5)


def test_squeezenet_takes_its_place(tiny_config):
  config = tiny_config(segmenter__backbone={"name": "squeezenet", "output_stride": 8})
  model = assemble.model(config, 3)
  image = jax.ShapeDtypeStruct((1, 45, 61, 3), jnp.uint8)
  out, _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), image)
  assert out.detail.shape == (1, 45, 61, 3)


def test_the_error_branch_sees_the_detail_branch_without_its_class_weights(tiny_config):
  weights = (0.5, 1.0, 2.0)
  changes = {"error_branch__prior": "detail", "detail_branch__residual": True}
  plain = assemble.model(tiny_config(**changes), 3)
  tilted = assemble.model(tiny_config(**changes, detail_loss={"class_weights": weights}), 3)
  image = jax.random.randint(jax.random.key(1), (1, 32, 32, 3), 0, 256).astype(jnp.uint8)
  variables = jax.jit(plain.init)(jax.random.key(0), image)
  a, b = (jax.jit(m.apply)(variables, image) for m in (plain, tilted))
  np.testing.assert_array_equal(a.detail, b.detail)
  # Before training the branch is the disbelief of the logits that it is given.
  want = disbelief_logit(unweighted(b.detail, weights), b.semantic.argmax(-1))
  np.testing.assert_allclose(b.error, want, atol=1e-4)
  assert np.abs(a.error - b.error).max() > 0.1
