"""The cascade's three losses at once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax import assemble
from errseg_jax.config import cascade
from errseg_jax.errors import UserError
from errseg_jax.losses import CascadeLoss, ErrorLoss, SemanticLoss, error_target
from errseg_jax.models.cascade import Refine
from errseg_jax.structs import Outputs

LOSS = CascadeLoss(SemanticLoss(), ErrorLoss(w2=1.0, w3=1.0), Refine())


@pytest.fixture
def case():
  rng = np.random.default_rng(0)
  semantic, detail = (jnp.asarray(x, jnp.float32) for x in rng.normal(0, 2, (2, 2, 6, 8, 3)))
  error = jnp.asarray(rng.normal(size=(2, 6, 8)), jnp.float32)
  label = rng.integers(0, 3, (2, 6, 8)).astype(np.uint8)
  label[:, :2] = 255
  return Outputs(semantic, error, detail), jnp.asarray(label)


def test_each_term_is_a_mean_over_valid_pixels(case):
  outputs, label = case
  terms, valid = LOSS.terms(outputs, label), np.asarray(label) != 255
  y = np.asarray(label)[valid].astype(int)
  coarse = np.asarray(jax.nn.softmax(outputs.semantic))[valid]
  fine = np.asarray(jax.nn.softmax(outputs.detail))[valid]
  a = np.asarray(jax.nn.sigmoid(outputs.error))[valid]
  wrong = coarse.argmax(-1) != y
  pick = np.arange(len(y)), y
  assert terms["coarse"] == pytest.approx(-np.log(coarse[pick]).mean(), rel=1e-5)
  assert terms["attention"] == pytest.approx(-np.log(np.where(wrong, a, 1 - a)).mean(), rel=1e-5)
  assert terms["refined"] == pytest.approx(-np.log(a * fine[pick] + (1 - a) * coarse[pick]).mean(), rel=1e-5)
  also = dataclasses.replace(LOSS, fine=0.5)
  assert also.terms(outputs, label)["fine"] == pytest.approx(-np.log(fine[pick]).mean(), rel=1e-5)
  assert also(outputs, label) == pytest.approx(
    float(sum(terms.values()) + 0.5 * also.terms(outputs, label)["fine"]), rel=1e-6
  )
  weighted = dataclasses.replace(LOSS, coarse=0.5, attention=2.0, refined=3.0)
  expected = 0.5 * terms["coarse"] + 2 * terms["attention"] + 3 * terms["refined"]
  assert weighted(outputs, label) == pytest.approx(float(expected), rel=1e-6)


def test_no_gradient_flows_through_the_attentions_target(case):
  outputs, label = case

  def attention(semantic, loss=LOSS):
    return loss.terms(dataclasses.replace(outputs, semantic=semantic), label)["attention"]

  assert not jax.grad(attention)(outputs.semantic).any()
  published = dataclasses.replace(LOSS, error=ErrorLoss())  # its weights follow from the coarse result too
  assert not jax.grad(lambda x: attention(x, published))(outputs.semantic).any()
  probable = dataclasses.replace(LOSS, error=ErrorLoss(target="tcp"))
  assert not jax.grad(lambda x: attention(x, probable))(outputs.semantic).any()


def test_the_target_is_that_of_the_coarse_labels_of_this_step(case):
  outputs, label = case
  wrong = np.asarray(error_target(outputs.semantic, label))
  right = dataclasses.replace(outputs, error=jnp.where(wrong, 50.0, -50.0))
  assert LOSS.terms(right, label)["attention"] == pytest.approx(0, abs=1e-6)
  better = dataclasses.replace(right, semantic=50 * jax.nn.one_hot(label, 3))
  assert LOSS.terms(better, label)["attention"] > 1


def test_ignored_pixels_change_nothing_and_none_but_such_give_nothing(case):
  outputs, label = case
  value = LOSS(outputs, label)
  other = dataclasses.replace(
    outputs, **{name: getattr(outputs, name).at[:, :2].add(3.0) for name in ("semantic", "detail", "error")}
  )
  assert LOSS(other, label) == pytest.approx(float(value), rel=1e-6)
  loss, gradient = jax.value_and_grad(lambda o: LOSS(o, jnp.full_like(label, 255)))(outputs)
  assert loss == 0
  assert not any(g.any() for g in jax.tree.leaves(gradient))


def test_class_weights_hold_for_the_refined_result_too(case):
  outputs, label = case
  label = jnp.where(label == 1, 255, label)  # then the weights of two classes decide
  even, tilted = (
    dataclasses.replace(LOSS, semantic=SemanticLoss(class_weights=w)).terms(outputs, label)
    for w in ((1.0, 1.0, 1.0), (5.0, 1.0, 1.0))
  )
  assert even["refined"] != tilted["refined"]
  assert even["coarse"] != tilted["coarse"]
  assert even["attention"] == tilted["attention"]


def test_a_config_says_all_of_it(tiny_config):
  config = cascade(tiny_config(cascade_loss={"attention": 0.5}, cascade={"combine": "logits"}), 16)
  config.semantic_loss.pixel = {"name": "focal"}
  config.error_loss.w2 = 1.5
  loss = assemble.loss(assemble.with_defaults(config), "cascade")
  assert (loss.attention, loss.refined, loss.refine.combine) == (0.5, 1.0, "logits")
  assert (type(loss.pixel).__name__, loss.error.w2) == ("Focal", 1.5)


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"cascade__combine": "mean"}, "probabilities, logits"),
    ({"cascade__selection": "sofd"}, "did you mean 'soft'"),
    ({"cascade__detatch": True}, "did you mean 'detach'"),
    ({"cascade_loss__coarse": -1.0}, "'coarse': -1.0"),
    ({"cascade_loss__fines": 1.0}, "fines"),
    ({"cascade_loss": {"coarse": 0.0, "attention": 0.0, "refined": 0.0}}, "one above 0"),
    ({"cascade_loss__attention": float("nan")}, "or more"),
  ],
)
def test_mistakes_are_told(changes, says, tiny_config):
  config = cascade(tiny_config(**changes), 16)
  with pytest.raises(UserError, match=says):
    assemble.loss(assemble.with_defaults(config), "cascade")
