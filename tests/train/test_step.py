import collections

import jax
import numpy as np
import pytest
from flax import traverse_util

from errseg_jax.models.error_aware import infer
from errseg_jax.train.state import merge

STAGES = ("semantic", "error", "detail")


def flat(tree):
  return {k: np.asarray(v) for k, v in traverse_util.flatten_dict(tree, sep="/").items()}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_changes_its_own_group_and_no_bit_of_the_others(bench, name):
  one = bench(name)
  before, frozen = flat(one.state.variables), flat(one.frozen)
  one.run(2)
  after = flat(one.state.variables)
  group = {"semantic": "segmenter"}.get(name, name)
  assert {k.split("/")[1] for k in after} == {group}
  assert {k.split("/")[1] for k in frozen} == {"segmenter", "error", "detail"} - {group}
  moved = [k for k in after if not np.array_equal(after[k], before[k])]
  assert len(moved) > 0.8 * len(after)
  for key, value in flat(one.frozen).items():
    np.testing.assert_array_equal(value, frozen[key])


@pytest.mark.parametrize("name", STAGES)
def test_the_optimizer_holds_two_slots_per_trained_parameter_and_none_else(bench, name):
  one = bench(name)
  assert set(one.state.variables["params"]) == {{"semantic": "segmenter"}.get(name, name)}
  shapes = collections.Counter(p.shape for p in jax.tree.leaves(one.state.variables["params"]))
  slots = collections.Counter(p.shape for p in jax.tree.leaves(one.state.opt_state))
  counts = slots.pop(()) - 2 * shapes.pop((), 0)
  assert slots == {shape: 2 * n for shape, n in shapes.items()}
  assert counts <= 3


def flops(one):
  batch = one.batches(1)[0]
  compiled = one.step.lower(one.state, one.frozen, batch).compile()
  return compiled.cost_analysis()["flops"]


def test_the_gradient_of_the_frozen_network_is_never_computed(bench):
  own, both = bench("error"), bench("error", groups=("segmenter", "error"))
  # A gradient costs about two forward passes.
  assert flops(both) > 1.8 * flops(own)
  # The loss does depend on the frozen network, or the difference would mean nothing.
  before = flat(both.state.variables["params"]["segmenter"])
  both.run(1)
  after = flat(both.state.variables["params"]["segmenter"])
  assert sum(not np.array_equal(after[k], before[k]) for k in after) > 0.8 * len(after)


def test_ema_is_the_running_mean_with_a_decay_that_starts_small(bench):
  one = bench("error", stages__error__ema=0.3)
  want = flat(one.state.variables)
  for k, batch in enumerate(one.batches(4)):
    one.state, _ = one.step(one.state, one.frozen, batch)
    decay = min(0.3, (1 + k) / (10 + k))
    want = {n: decay * want[n] + (1 - decay) * v for n, v in flat(one.state.variables).items()}
  for name, value in flat(one.state.result).items():
    np.testing.assert_allclose(value, want[name], rtol=1e-4, atol=1e-6)
  assert one.state.result is one.state.ema


def test_all_ignored_crops_train_nothing_and_give_no_nan(bench):
  one = bench("semantic")
  before = flat(one.state.variables["params"])
  batch = one.batches(1)[0]
  state, metrics = one.step(one.state, one.frozen, batch.replace(label=np.full_like(batch.label, 255)))
  assert metrics["loss"] == metrics["grad_norm"] == 0
  for name, value in flat(state.variables["params"]).items():
    np.testing.assert_array_equal(value, before[name])


def test_a_branch_s_step_says_how_often_the_frozen_network_is_wrong_on_what_it_is_fed(bench):
  one = bench("error")
  batch = one.batches(1)[0]
  outputs = infer(one.model, merge(one.frozen, one.state.variables), batch.image)
  label, guess = np.asarray(batch.label), np.asarray(outputs.semantic).argmax(-1)
  _, metrics = one.step(one.state, one.frozen, batch)
  wrong = (guess != label)[label != 255].mean()
  assert 0 < wrong < 1
  np.testing.assert_allclose(metrics["error_rate"], 100 * wrong, rtol=1e-5)


def losses_and_gradient(bench, name, devices, **changes):
  """(loss of each of 20 steps, gradient of the first batch, final variables) on so many devices."""
  changes |= {f"stages__{name}__steps": 20, f"stages__{name}__optimizer__clip_norm": 0.0}
  # A larger rate magnifies the last bit of the first sums by more than the bound within 20 steps.
  changes[f"stages__{name}__optimizer__learning_rate"] = 5e-4
  one = bench(name, devices, **changes)
  first, *rest = one.batches(20)
  one.state, metrics = one.step(one.state, one.frozen, first)
  # Adam's first moment after one step is a tenth of the gradient.
  adam = next(s for s in one.state.opt_state if hasattr(s, "mu"))
  gradient = {k: 10 * v for k, v in flat(adam.mu).items()}
  losses = [float(metrics["loss"])]
  for i, batch in enumerate(rest, 1):
    one.state, metrics = one.step(one.state, one.in_turn[i % len(one.in_turn)], batch)
    losses.append(float(metrics["loss"]))
  return np.array(losses), gradient, flat(one.state.variables)


CROSSFIT = {"splits__error_source": "crossfit", "splits__folds": 2}


@pytest.mark.parametrize(("name", "changes"), [("semantic", {}), ("detail", {}), ("detail", CROSSFIT)])
def test_eight_devices_train_as_one_does_in_float32(bench, name, changes):
  (a, grad_a, _), (b, grad_b, _) = (losses_and_gradient(bench, name, n, **changes) for n in (1, 8))
  np.testing.assert_allclose(a, b, rtol=1e-4)
  norm = np.sqrt(sum((g**2).sum() for g in grad_a.values()))
  for key, value in grad_a.items():
    np.testing.assert_allclose(grad_b[key], value, atol=1e-5 * max(norm, 1))


@pytest.mark.parametrize("name", ["semantic", "detail"])
def test_eight_devices_train_as_one_does_in_float64(bench, name):
  with jax.enable_x64(True):
    (a, _, end_a), (b, _, end_b) = (losses_and_gradient(bench, name, n, dtype="float64") for n in (1, 8))
  np.testing.assert_allclose(a, b, rtol=1e-9)
  for key, value in end_a.items():
    assert value.dtype == np.float64
    np.testing.assert_allclose(end_b[key], value, atol=1e-8)
