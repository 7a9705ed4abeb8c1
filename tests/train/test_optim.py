import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax.config import stage
from errseg_jax.errors import UserError
from errseg_jax.train.optim import decay_mask, make_optimizer, poly_schedule

PARAMS = {
  "segmenter": {
    "backbone": {"conv": {"kernel": jnp.ones((3, 3, 2, 2)), "bias": jnp.ones(2)}},
    "head": {"bn": {"scale": jnp.ones(2), "bias": jnp.ones(2)}, "kernel": jnp.ones((1, 1, 2, 2))},
  }
}


def update(steps=10, gradient=0.0, **changes):
  """Flat name -> first update of a parameter, for a constant gradient."""
  tx = make_optimizer(stage(steps, 0.1, **changes).optimizer, steps, PARAMS)
  grads = _map(lambda p: jnp.full(p.shape, gradient))
  updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS)
  return updates["segmenter"]


def _map(f, tree=PARAMS):
  return {k: _map(f, v) if isinstance(v, dict) else f(v) for k, v in tree.items()}


def test_poly_runs_from_the_learning_rate_to_zero():
  schedule = poly_schedule(0.5, 100, 0.9)
  assert float(schedule(0)) == pytest.approx(0.5)
  assert float(schedule(50)) == pytest.approx(0.5 * 0.5**0.9)
  assert float(schedule(100)) == 0


def test_warm_up_starts_at_zero_and_poly_follows_over_the_rest():
  schedule = poly_schedule(0.5, 100, 1.0, 20)
  assert [float(schedule(k)) for k in (0, 10, 20, 60, 100)] == pytest.approx([0, 0.25, 0.5, 0.25, 0])


def test_weight_decay_leaves_biases_and_normalisation_alone():
  mask = decay_mask(PARAMS)["segmenter"]
  assert mask["backbone"]["conv"] == {"kernel": True, "bias": False}
  assert mask["head"] == {"bn": {"scale": False, "bias": False}, "kernel": True}
  for name in ("adam", "sgd"):
    updates = update(name=name, weight_decay=0.1)
    np.testing.assert_allclose(updates["head"]["kernel"], -0.01, rtol=1e-5)
    assert not updates["head"]["bn"]["scale"].any()
    assert not updates["backbone"]["conv"]["bias"].any()


def test_a_multiplier_scales_the_parameters_under_its_prefix():
  updates = update(gradient=1.0, clip_norm=0.0, multipliers={"segmenter/backbone": 0.3})
  np.testing.assert_allclose(updates["head"]["kernel"], -0.1, rtol=1e-4)
  np.testing.assert_allclose(updates["backbone"]["conv"]["kernel"], -0.03, rtol=1e-4)


@pytest.mark.parametrize("prefix", ["segmenter/backbon", "backbone", "error"])
def test_a_multiplier_that_matches_nothing_is_refused(prefix):
  with pytest.raises(UserError, match=prefix):
    update(multipliers={prefix: 0.3})


def test_the_gradient_is_clipped_by_its_global_norm():
  count = sum(p.size for p in (jnp.ones((3, 3, 2, 2)), *[jnp.ones(2)] * 3, jnp.ones((1, 1, 2, 2))))
  updates = update(name="sgd", gradient=7.0, clip_norm=1.0)
  np.testing.assert_allclose(updates["head"]["kernel"], -0.1 / np.sqrt(count), rtol=1e-4)


def test_an_unknown_optimizer_is_refused():
  with pytest.raises(UserError, match="did you mean 'adam'"):
    update(name="adamw")
