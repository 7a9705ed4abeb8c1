"""Guidance in training: with the network, on a frozen one, and under the branches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax import assemble
from errseg_jax.assemble import with_defaults
from errseg_jax.errors import UserError
from errseg_jax.evaluate import evaluate
from errseg_jax.losses import GuidedLoss, SemanticLoss
from errseg_jax.structs import Outputs
from errseg_jax.train.initialise import initial_variables
from errseg_jax.train.restore import load, trained_variables
from errseg_jax.train.stages import plan
from errseg_jax.train.trainer import Trainer
from errseg_jax.train.workdir import load_config

LABEL = jnp.asarray(np.array([[[0, 0], [1, 255]], [[255, 255], [255, 255]]], np.uint8))


def outputs(scores):
  return Outputs(jnp.zeros((2, 2, 2, 3)), presence=jnp.asarray(scores, jnp.float32))


def test_presence_is_learned_from_labelled_images_alone():
  scores = np.array([[4.0, -1.0, 2.0], [9.0, 9.0, 9.0]])
  terms = GuidedLoss(SemanticLoss()).terms(outputs(scores), LABEL)
  present = np.array([1, 1, 0])
  expected = np.log1p(np.exp(np.where(present, -scores[0], scores[0]))).mean()
  assert float(terms["presence"]) == pytest.approx(expected, rel=1e-5)
  assert float(terms["pixel"]) == pytest.approx(np.log(3), rel=1e-5)
  both = GuidedLoss(SemanticLoss(), 0.5)(outputs(scores), LABEL)
  assert float(both) == pytest.approx(np.log(3) + 0.5 * expected, rel=1e-5)


def test_a_batch_of_void_gives_nothing():
  assert (
    float(GuidedLoss(SemanticLoss())(outputs(np.full((2, 3), 9.0)), jnp.full((2, 2, 2), 255, jnp.uint8))) == 0
  )


@pytest.mark.parametrize("presence", [-1.0, float("inf"), float("nan")])
def test_a_weight_that_is_none_is_refused(presence):
  with pytest.raises(UserError, match="presence"):
    GuidedLoss(SemanticLoss(), presence)


@pytest.mark.parametrize("kind", ["guided", "guidance"])
def test_only_its_groups_train(kind, bench):
  run = bench(kind, order=("semantic", kind))
  before = run.state.variables["params"]
  first = {g: float(sum(np.abs(x).sum() for x in _leaves(t))) for g, t in before.items()}
  assert set(first) == ({"segmenter", "guidance"} if kind == "guided" else {"guidance"})
  losses, state = run.run(4)
  assert np.isfinite(losses).all()
  after = {g: float(sum(np.abs(x).sum() for x in _leaves(t))) for g, t in state.variables["params"].items()}
  assert all(after[g] != first[g] for g in first)


def _leaves(tree):
  return [np.asarray(x) for v in tree.values() for x in (_leaves(v) if hasattr(v, "values") else [v])]


@pytest.fixture(scope="module")
def stacked(tiny_config, tmp_path_factory):
  """Error and detail branches on a guided network."""
  order = ("semantic", "guided", "detail", "error")
  config = tiny_config(order=order, error_branch__prior="detail", stages__guided__steps=12)
  workdir = tmp_path_factory.mktemp("guided") / "run"
  Trainer(with_defaults(config), workdir).run()
  return workdir


def test_branches_on_a_guided_network_are_scored_with_presence_and_oracle(stacked):
  results = evaluate(load_config(stacked), stacked, "val", oracle=True)
  assert results["presence"]["images"] == {"ground": 5, "wall": 5, "sign": 5}
  assert results["presence"]["F1"].keys() == {"ground", "wall", "sign"}
  assert (
    results["oracle"]["mIoU"] >= results["fused"]["mIoU"] - 1e-9
  )  # every image shows every class: nothing is ruled out
  assert {"base", "semantic", "detail", "fused"} <= results.keys()
  assert results["speed"]["guidance_ms"] >= 0
  assert "AUROC" in results["error"]


def test_prediction_is_guided(stacked):
  network = load(stacked)
  image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
  variables = trained_variables(network.config, stacked, network.model)
  guided = network.model.apply(variables, image[None], wanted=())
  np.testing.assert_array_equal(network.predict(image).semantic_labels, guided.semantic.argmax(-1)[0])
  assert np.abs(guided.presence).max() > 0


def test_the_oracle_names_no_class_that_is_not_there(tiny_config, stacked, own_data):
  from PIL import Image

  for path in (own_data / "labels" / "val").iterdir():
    label = np.array(Image.open(path))
    label[label == 2] = 0
    Image.fromarray(label).save(path)
  config = load_config(stacked)
  config.data.root = str(own_data)
  results = evaluate(config, stacked, "val", oracle=True)
  assert results["oracle"]["IoU"]["sign"] is None  # neither there nor named
  assert results["oracle"]["mIoU"] > results["fused"]["mIoU"]


def test_a_guided_stage_may_come_first(tiny_config, tmp_path):
  config = with_defaults(tiny_config(order=("guided",)))
  assert [s.groups for s in plan(config)] == [("segmenter", "guidance")]
  Trainer(config, tmp_path / "run").run()
  assert evaluate(load_config(tmp_path / "run"), tmp_path / "run", "val")["presence"]["mF1"] is not None
  check_prediction_without_branches(tmp_path / "run")


def check_prediction_without_branches(workdir):
  network = load(workdir)
  image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
  told = network.predict(image)
  logits = network.model.apply(network.variables, image[None], wanted=()).semantic[0]
  for labels in (told.labels, told.semantic_labels, told.detail_labels):
    np.testing.assert_array_equal(labels, logits.argmax(-1))
  np.testing.assert_allclose(told.error_probability, 1 - jax.nn.softmax(logits).max(-1), atol=1e-5)


@pytest.mark.parametrize(
  ("order", "match"),
  [
    (("semantic", "guided", "guidance"), "leave one out"),
    (("semantic", "guided", "control"), "leave one out"),
    (("semantic", "subnets", "guided"), "put it first"),
    (("semantic", "detail", "guidance"), "put it first"),
    (("guidance",), "no semantic stage"),
  ],
)
def test_orders_that_make_no_sense_are_refused(order, match, tiny_config):
  with pytest.raises(UserError, match=match):
    plan(tiny_config(order=order))


@pytest.mark.parametrize(
  ("key", "value", "match"),
  [
    ("features", 0, "at least 1"),
    ("hidden", 0, "at least 1"),
    ("cells", 0, "at least 1"),
    ("dropout", 1.0, "below 1"),
  ],
)
def test_settings_of_nothing_are_refused(key, value, match, tiny_config):
  config = tiny_config(order=("semantic", "guided"), **{f"guidance__{key}": value})
  with pytest.raises(UserError, match=match):
    assemble.model(with_defaults(config), 3)


def test_guidance_is_not_left_behind(stacked, tiny_config, tmp_path):
  config = with_defaults(
    tiny_config(order=("detail", "error"), segmenter__init=str(stacked), error_branch__prior="detail")
  )
  with pytest.raises(UserError, match="guidance, which would be left behind"):
    Trainer(config, tmp_path / "run").run()


@pytest.mark.parametrize("kind", ["guided", "guidance"])
def test_a_guided_run_hands_on_network_and_guidance(kind, stacked, tiny_config):
  """To be fine-tuned on other images, or under branches that are trained anew."""
  config = with_defaults(tiny_config(order=(kind,), segmenter__init=str(stacked)))
  model = assemble.model(config, 3)
  started = initial_variables(model, config)["params"]
  given = load_config(stacked)
  trained = trained_variables(given, stacked, assemble.model(given, 3))["params"]
  for group in ("segmenter", "guidance"):
    jax.tree.map(np.testing.assert_array_equal, started[group], trained[group])
  assert np.abs(started["guidance"]["classes"]["kernel"]).max() > 0  # at random it is zero


def test_guidance_of_another_size_is_refused(stacked, tiny_config):
  config = with_defaults(tiny_config(order=("guided",), segmenter__init=str(stacked), guidance__hidden=5))
  with pytest.raises(UserError, match="guidance"):
    initial_variables(assemble.model(config, 3), config)
