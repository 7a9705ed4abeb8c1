"""Subnets: their own spaces, the common space, and what fusion must leave as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax.models.confusion_groups import RULES, ConfusionGroups, common_scores, fuse_groups, group_label
from errseg_jax.structs import Features

GROUPS = ((1, 3), (0, 4, 5))


def scores(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * 3, jnp.float32)


def softmax(z):
  return np.asarray(jax.nn.softmax(z))


def test_labels_in_the_space_of_a_group():
  label = jnp.asarray([0, 1, 2, 3, 5, 255], jnp.uint8)
  np.testing.assert_array_equal(group_label(label, (1, 5)), [0, 1, 0, 0, 2, 255])


def test_a_class_outside_takes_the_score_of_others():
  got = common_scores(jnp.asarray([[7.0, 1.0, 2.0]]), (3, 0), 5)
  np.testing.assert_array_equal(got, [[2.0, 7.0, 7.0, 1.0, 7.0]])


@pytest.mark.parametrize("rule", RULES)
def test_the_rules_against_their_definition(rule):
  base, subnets = scores(2, 3, 6), [scores(2, 3, len(g) + 1, seed=k) for k, g in enumerate(GROUPS, 1)]
  got = np.asarray(fuse_groups(base, subnets, GROUPS, rule))
  probabilities = [softmax(base)]
  for z, group in zip(subnets, GROUPS, strict=True):
    q = softmax(z)
    common = np.repeat(q[..., :1], 6, -1)
    for k, c in enumerate(group, 1):
      common[..., c] = q[..., k]
    probabilities.append(common)
  if rule == "product":
    want = np.prod(probabilities, 0)
  elif rule == "sum":
    want = np.sum(probabilities, 0)
  else:
    want = probabilities[0].copy()
    for c in range(6):
      voters = [probabilities[0]] + [p for p, g in zip(probabilities[1:], GROUPS, strict=True) if c in g]
      want[..., c] = np.mean([p[..., c] for p in voters], 0)
  np.testing.assert_allclose(softmax(got), want / want.sum(-1, keepdims=True), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_one_group_of_all_classes_on_a_uniform_network_decides_alone(rule):
  z = scores(50, 7)
  got = fuse_groups(jnp.zeros((50, 6)), [z], [range(6)], rule)
  np.testing.assert_array_equal(got.argmax(-1), z[:, 1:].argmax(-1))


@pytest.mark.parametrize("rule", ["product", "sum"])
def test_uniform_subnets_leave_the_network_as_it_is(rule):
  base = scores(50, 6)
  uniform = [jnp.zeros((50, len(group) + 1)) for group in GROUPS]
  np.testing.assert_array_equal(fuse_groups(base, uniform, GROUPS, rule).argmax(-1), base.argmax(-1))


@pytest.mark.parametrize("rule", RULES)
def test_a_permutation_of_the_classes_permutes_everything(rule):
  base, order = scores(20, 6), np.array([3, 0, 5, 1, 4, 2])  # new place -> old class
  subnets = [scores(20, len(g) + 1, seed=k) for k, g in enumerate(GROUPS, 1)]
  place = np.argsort(order)
  moved = [tuple(int(place[c]) for c in group) for group in GROUPS]
  got = fuse_groups(base[:, order], subnets, moved, rule)
  np.testing.assert_allclose(got, fuse_groups(base, subnets, GROUPS, rule)[:, order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1e4, 80.0])
def test_large_logits_stay_finite(size):
  base = scores(9, 6).astype(jnp.bfloat16) * size
  subnets = [scores(9, len(g) + 1, seed=2) * size for g in GROUPS]
  for rule in RULES:
    value, gradient = jax.value_and_grad(
      lambda z, rule=rule: jax.nn.log_softmax(fuse_groups(z, subnets, GROUPS, rule))[:, 0].sum()
    )(base)
    assert np.isfinite(value)
    assert np.isfinite(np.asarray(gradient, np.float32)).all()


def forward(module, features):
  image = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)
  variables = jax.jit(module.init)(jax.random.key(0), image, features)
  return variables, module.apply(variables, image, features)


def test_subnets_have_the_settings_of_their_group():
  features = Features(
    scores(2, 4, 6, 6), (scores(2, 8, 12, 5), scores(2, 4, 6, 7)), scores(2, 2, 3, 9), (4, 8)
  )
  module = ConfusionGroups(6, GROUPS, features=8, depth=(1, 3), dilation=(1, 2), strides=((4,), (8,)))
  variables, out = forward(module, features)
  assert [z.shape for z in out] == [(2, 8, 12, 3), (2, 4, 6, 4)]
  params = variables["params"]
  assert "conv2" not in params["subnet1"]
  assert "conv3" in params["subnet2"]
  assert params["subnet2"]["low0"]["conv"]["conv"]["kernel"].shape == (1, 1, 7, 4)


def test_a_network_without_features_gets_an_encoder():
  module = ConfusionGroups(6, GROUPS, features=8, strides=(4,))
  variables, out = forward(module, Features(scores(2, 16, 24, 6)))
  assert "encoder" in variables["params"]
  assert [z.shape for z in out] == [(2, 8, 12, 3), (2, 8, 12, 4)]
