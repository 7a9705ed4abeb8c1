"""Tuning on unseen images: what it writes, who reads it, and what is refused."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax import assemble
from errseg_jax.assemble import with_defaults
from errseg_jax.cli import main
from errseg_jax.errors import UserError
from errseg_jax.evaluate import evaluate
from errseg_jax.inference.choice import Choice
from errseg_jax.inference.tune import ALPHAS, LAMBDAS, Tuner, candidates
from errseg_jax.inference.tuned import Tuned, tuned_arrays
from errseg_jax.models.crf import GuidanceCRF
from errseg_jax.train.restore import load, resting_variables, stage_result
from errseg_jax.train.stages import plan
from errseg_jax.train.trainer import Trainer
from errseg_jax.train.workdir import load_config
from errseg_jax.tune import tune, unseen

VIEWS = {"scales": (1.0,), "mirror": True, "combine": "learned"}


@pytest.fixture(scope="module")
def guided(tiny_config, tmp_path_factory):
  """A guided network, tuned: learned views, CRF with learned compatibility."""
  config = tiny_config(order=("semantic", "guided"), stages__semantic__steps=20)
  workdir = tmp_path_factory.mktemp("tune") / "run"
  Trainer(with_defaults(config), workdir).run()
  tune(asked(workdir), workdir)
  return workdir


def asked(workdir, views=VIEWS, **crf):
  config = load_config(workdir)
  config.views.update(views)
  config.crf.update({"iterations": 2, "radius": 3, "compatibility": "learned", **crf})
  return config


def test_the_file_says_what_was_compared_and_what_won(guided):
  found = Tuned.load(guided)
  names = ["views mean", "views learned", "without CRF", *(f"alpha=1 lambda={x:g}" for x in (0, 1, 2, 4, 6))]
  assert list(found.candidates) == names
  best = max(v for k, v in found.candidates.items() if k[:5] == "alpha")
  assert found.candidates[f"alpha=1 lambda={found.lam:g}"] == best
  assert found.alpha == (1.0 if best > found.candidates["without CRF"] else 0.0)
  assert np.shape(found.combination) == (2, 3)
  assert np.shape(found.compatibility) == (3, 3)
  assert np.abs(np.array(found.combination) - 0.5).max() > 1e-3
  assert found.on.startswith("4 images")


def test_evaluate_uses_it(guided):
  results = evaluate(asked(guided), guided, "val")
  found = Tuned.load(guided)
  settings = results["crf"]["settings"]
  assert (settings["alpha"], settings["lam"]) == (found.alpha, found.lam)
  assert len(results["crf"]["changed"]) == 2
  assert results["views"]["combine"] == "learned"


def test_predict_hands_out_smoothed_labels_and_the_same_error_map(trained):
  image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
  plain = load(trained).predict(image)
  smooth = load(trained, asked(trained, {}, alpha=3.0, compatibility="guidance")).predict(image)
  assert (np.asarray(smooth.labels) != np.asarray(plain.labels)).any()
  np.testing.assert_allclose(smooth.error_probability, plain.error_probability, rtol=1e-4)
  np.testing.assert_array_equal(smooth.semantic_labels, plain.semantic_labels)


def test_the_network_is_as_before_without_the_flags(guided):
  config = load_config(guided)
  results = evaluate(config, guided, "val")
  assert "crf" not in results
  assert "tuned" not in resting_variables(config, guided, assemble.model(config, 3))


@pytest.mark.parametrize(
  ("change", "match"),
  [
    (lambda c: c.views.update(scales=(1.0, 0.5)), "tuned with config.views"),
    (lambda c: c.views.update(scales=(0.5, 1.0), mirror=False), "tuned with config.views"),
    (lambda c: c.crf.update(radius=4), "tuned with config.crf"),
    (lambda c: c.crf.update(compatibility="guidance"), "tuned with config.crf"),
  ],
)
def test_what_was_tuned_under_other_settings_is_refused(change, match, guided):
  config = asked(guided)
  change(config)
  with pytest.raises(UserError, match=match):
    tuned_arrays(config, guided)


def test_a_given_lambda_needs_no_tuning(guided, tmp_path):
  config = asked(guided, {"combine": "mean"}, alpha=3.0, lam=2.0, compatibility="guidance")
  assert tuned_arrays(config, tmp_path) == {}
  config.crf.lam = None
  with pytest.raises(UserError, match="is missing: run `errseg tune`"):
    tuned_arrays(config, tmp_path)


@pytest.mark.parametrize(
  "text",
  ["", "[]", '{"schema": 2}', '{"schema": 1, "on": "", "combination": [[1], [1, 2]], "compatibility": []}'],
)
def test_a_damaged_file_is_one_line(text, tmp_path):
  (tmp_path / "tuned.json").write_text(text)
  with pytest.raises(UserError, match="damaged"):
    Tuned.load(tmp_path)


def test_what_is_saved_is_what_is_loaded(tmp_path):
  found = Tuned(
    "4 images",
    {"combine": "learned"},
    ((1.0, 0.5),),
    3.0,
    2.0,
    ((0.0, 1.0), (1.0, 0.0)),
    {"alpha=3 lambda=2": 50.0},
  )
  found.save(tmp_path)
  assert Tuned.load(tmp_path) == found
  assert json.loads((tmp_path / "tuned.json").read_text())["schema"] == 1


def test_nothing_to_tune_is_said(trained, capsys):
  assert main(["tune", f"--workdir={trained}"]) == 2
  assert "nothing to tune" in capsys.readouterr().err


def test_tuning_on_what_is_reported_is_refused(trained, capsys):
  words = ["tune", f"--workdir={trained}", "--config.crf.iterations=2", "--config.splits.choose=val"]
  assert main(words) == 2
  assert "reported" in capsys.readouterr().err


def test_tiles_and_crf_exclude_each_other(trained, capsys):
  words = [
    f"--workdir={trained}",
    "--config.crf.iterations=2",
    "--config.crf.alpha=1.0",
    "--config.tiles.size=96",
  ]
  assert main(["evaluate", *words]) == 2
  assert "crf.iterations or tiles.size" in capsys.readouterr().err


def test_arrays_are_float32(guided):
  arrays = tuned_arrays(asked(guided), guided)
  assert {k: v.dtype for k, v in arrays.items()} == dict.fromkeys(
    ("combination", "alpha", "lam", "compatibility"), jnp.float32
  )


def test_without_classes_of_the_image_lambda_is_not_asked_for(trained, guided, tmp_path):
  config = asked(trained, {}, alpha=3.0, compatibility="guidance")
  assert tuned_arrays(config, tmp_path) == {}
  crf = GuidanceCRF(iterations=1)
  assert candidates(crf, False) == [(a, 0.0) for a in ALPHAS]
  assert len(candidates(crf, True)) == len(ALPHAS) * len(LAMBDAS)
  assert candidates(dataclasses.replace(crf, alpha=2.0, lam=3.0), True) == [(2.0, 3.0)]


def test_a_crf_that_does_not_help_is_switched_off(guided):
  class Harmful(Tuner):
    def count(self, counter, variables, title):
      better, worse = np.diag([9, 9, 9]), np.full((3, 3), 3)
      return {"fused": better, "crf": np.stack([worse] * len(ALPHAS))}

  model = assemble.model(load_config(guided), 3).clone(guidance=None)
  tuner = Harmful(None, model, {}, (), Choice(), [], guided, None)
  found = tuner.with_crf(Tuned(""), GuidanceCRF(iterations=1))
  assert (found.alpha, found.lam) == (0.0, 0.0)


def test_a_stage_is_loaded_beside_what_was_tuned(guided):
  config = asked(guided)
  model = assemble.model(config, 3)
  variables = resting_variables(config, guided, model)
  assert "tuned" in variables
  result = stage_result(config, guided, plan(config)[-1], variables)
  assert set(result["params"]) == {"segmenter", "guidance"}


def test_confusion_and_label_issues_ask_for_no_crf(guided, tmp_path):
  config = asked(guided, {"combine": "mean"}, compatibility="guidance")
  assert tuned_arrays(config, tmp_path, with_crf=False) == {}


@pytest.mark.parametrize(
  ("key", "value"),
  [("choose", "train"), ("choose", "val"), ("choose", ""), ("choose_fraction", 0.5), ("val", "choose")],
)
def test_images_that_trained_or_are_reported_tune_nothing(key, value, guided):
  config = asked(guided)
  config.splits[key] = value
  with pytest.raises(UserError, match="trained"):
    unseen(config, load_config(guided), None)


def test_another_split_may_tune(guided):
  config, trained = load_config(guided), load_config(guided)
  trained.splits.choose = "val"  # the run has no unseen images
  source, on = unseen(config, trained, assemble.dataset(config))
  assert (len(source), on) == (4, "4 images (split choose)")
