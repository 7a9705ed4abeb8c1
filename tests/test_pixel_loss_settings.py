"""Pixel losses in a config: names, keys, class frequencies, mistakes."""

import numpy as np
import pytest

from errseg_jax import assemble
from errseg_jax.config import default_config, paper
from errseg_jax.config_flags import override
from errseg_jax.errors import UserError
from errseg_jax.losses import DetailLoss
from errseg_jax.pixel_losses import (
  Confusion,
  Focal,
  InverseFrequency,
  MedianFrequency,
  Ohem,
)


def refused(call, *words):
  with pytest.raises(UserError) as caught:
    call()
  assert "\n" not in str(caught.value)
  for word in words:
    assert word in str(caught.value)


@pytest.mark.parametrize("section", ["semantic_loss", "detail_loss"])
@pytest.mark.parametrize(
  ("pixel", "words"),
  [
    ({"name": "focall"}, ("pixel.name='focall'", "did you mean 'focal'", "max_pooling")),
    ({}, ("pixel.name=None", "known: cross_entropy")),
    ({"name": "focal", "gama": 1.0}, ("pixel: key='gama'", "did you mean 'gamma'")),
    ({"name": "focal", "strength": 1.0}, ("pixel: key='strength'", "known: gamma")),
    ({"name": "focal", "gamma": -1.0}, ("'focal'", "gamma=-1.0", "0 or more")),
    ({"name": "ohem", "threshold": 1.5}, ("'ohem'", "threshold=1.5")),
    ({"name": "ohem", "share": 0.0}, ("'ohem'", "share=0.0")),
    ({"name": "max_pooling", "p": 1.0}, ("'max_pooling'", "p=1.0", "above 1")),
    ({"name": "max_pooling", "support": 2.0}, ("'max_pooling'", "support=2.0")),
    ({"name": "confusion", "strength": -5.0}, ("'confusion'", "strength=-5.0")),
    ({"name": "confusion", "weights": "rows"}, ("weights='rows'", "raw, row")),
    ({"name": "confusion", "diag": "1"}, ("diag='1'", "one, confusion")),
    ({"name": "confusion", "on": "val"}, ("on='val'", "train, choose")),
    ({"name": "confusion", "refresh": -1}, ("refresh=-1",)),
  ],
)
def test_a_mistake_in_the_config_is_one_line(tiny_config, section, pixel, words):
  stage = section.removesuffix("_loss")
  config = tiny_config(detail_loss={"weights": "all"})
  config[section].pixel = pixel
  refused(lambda: assemble.loss(config, stage), *words)


@pytest.mark.parametrize("name", ["inverse_frequency", "median_frequency"])
@pytest.mark.parametrize("twice", [{"balance": 0.5}, {"class_weights": (1.0, 2.0, 3.0)}])
@pytest.mark.parametrize("section", ["semantic_loss", "detail_loss"])
def test_classes_are_weighed_once(tiny_config, name, twice, section):
  config = tiny_config(**{section: {**twice, "pixel": {"name": name}}})
  words = (f"{section}.pixel", "balance", "class_weights")
  refused(lambda: assemble.loss(config, section.removesuffix("_loss")), *words)
  refused(lambda: assemble.with_class_weights(config, {}, 3), *words)


def test_frequencies_are_counted_in_the_labels_of_the_stage(tiny_config):
  config = tiny_config(
    detail_loss={"pixel": {"name": "median_frequency"}},
    semantic_loss={"pixel": {"name": "inverse_frequency"}},
  )
  sources = {
    "semantic": [{"label": np.array([[0, 0, 1, 2]], np.uint8)}],
    "branches": [
      {"label": np.array([[0, 0, 0, 1]], np.uint8)},
      {"label": np.array([[1, 2, 255, 255]], np.uint8)},
    ],
  }
  full = assemble.with_class_weights(config, sources, 3)
  weights = MedianFrequency.counted(np.array([[3, 1, 0], [0, 1, 1]]))
  assert assemble.loss(full, "detail").pixel == MedianFrequency(weights)
  # What the error branch sees of the detail branch is without them, as without a balance.
  assert assemble.model(full, 3).detail_weights == weights
  assert assemble.loss(full, "semantic").pixel == InverseFrequency(
    InverseFrequency.counted(np.array([[2, 1, 1]]))
  )
  assert assemble.with_class_weights(full, {}, 3).to_dict() == full.to_dict()
  refused(lambda: assemble.model(full, 4), "semantic_loss.pixel.class_weights", "3 numbers for 4 classes")


def test_defaults_and_the_paper_s_setting():
  config = default_config()
  config.detail_loss.pixel = {"name": "ohem", "share": 0.5}
  config.semantic_loss = {"jaccard": 1.0}
  assemble.with_defaults(config)
  assert config.detail_loss.pixel.to_dict() == {"name": "ohem", "share": 0.5, "threshold": 0.7}
  assert config.semantic_loss.pixel.to_dict() == {"name": "cross_entropy"}
  assert assemble.loss(config, "detail").pixel == Ohem(0.7, 0.5)
  assert assemble.loss(paper(config), "detail") == DetailLoss("mask", 0.7)
  config.detail_loss.pixel = {"name": "hard"}
  refused(lambda: assemble.with_defaults(config), "config.detail_loss.pixel.name='hard'")
  config.detail_loss = {"pixel": "focal"}
  refused(lambda: assemble.with_defaults(config), "is no section")


def test_a_flag_names_the_pixel_loss_and_sets_its_keys_in_any_order():
  config = assemble.with_defaults(default_config())
  config.detail_loss.pixel = {"name": "focal", "gamma": 1.0}
  override(config, ["--config.semantic_loss.pixel.strength=2", "--config.semantic_loss.pixel.name=confusion"])
  assert assemble.loss(config, "semantic").pixel == Confusion(strength=2.0)
  override(config, ["--config.detail_loss.pixel.name=focal"])
  assert assemble.loss(config, "detail").pixel == Focal(1.0)  # named as it was: its keys stay
  override(config, ["--config.detail_loss.pixel.name=ohem"])
  assert config.detail_loss.pixel.to_dict() == {"name": "ohem", "threshold": 0.7, "share": 1 / 16}
  refused(
    lambda: override(config, ["--config.detail_loss.pixel.gamma=2"]), "no key 'gamma'", "share, threshold"
  )
