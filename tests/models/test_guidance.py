"""Guidance by image classification: the grid of maxima, and what global scores do to local ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax import assemble
from errseg_jax.models.error_aware import infer
from errseg_jax.models.guidance import Guidance, grid_max
from errseg_jax.structs import Features

IMAGE = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)


@pytest.mark.parametrize(("height", "width", "cells"), [(14, 21, 7), (9, 15, 7), (3, 5, 7), (8, 8, 1)])
def test_a_cell_is_the_maximum_of_its_part(height, width, cells):
  x = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
  found = grid_max(jnp.asarray(x), cells)
  for i in range(cells):
    for j in range(cells):
      rows = slice(i * height // cells, -(-(i + 1) * height // cells))
      columns = slice(j * width // cells, -(-(j + 1) * width // cells))
      np.testing.assert_array_equal(found[:, i, j], x[:, rows, columns].max((1, 2)))


def guided(tiny_config, **changes):
  config = assemble.with_defaults(tiny_config(order=("semantic", "guided", "detail", "error"), **changes))
  model = assemble.model(config, 3)
  return model, model.init(jax.random.key(0), IMAGE)


def with_scores(variables, scores):
  """Global scores that are the same whatever the image shows."""
  guidance = dict(variables["params"]["guidance"])
  guidance["classes"] = {**guidance["classes"], "bias": jnp.asarray(scores, jnp.float32)}
  return {**variables, "params": {**variables["params"], "guidance": guidance}}


def test_an_untrained_guidance_changes_nothing(tiny_config):
  model, variables = guided(tiny_config)
  outputs = infer(model, variables, IMAGE)
  alone = infer(model.clone(guidance=None), variables, IMAGE)
  np.testing.assert_array_equal(outputs.semantic, alone.semantic)
  np.testing.assert_array_equal(outputs.base, alone.semantic)
  np.testing.assert_array_equal(outputs.error, alone.error)
  np.testing.assert_array_equal(outputs.presence, np.zeros((2, 3)))
  assert alone.base is None
  assert alone.presence is None


def test_every_local_score_gets_the_global_one_and_the_branches_see_it(tiny_config):
  model, variables = guided(tiny_config)
  scores = [3.0, -2.0, 0.5]
  outputs = infer(model, with_scores(variables, scores), IMAGE)
  alone = infer(model.clone(guidance=None), variables, IMAGE)
  np.testing.assert_allclose(outputs.presence, np.tile(scores, (2, 1)))
  np.testing.assert_allclose(
    outputs.semantic - outputs.base, np.broadcast_to(scores, outputs.base.shape), atol=1e-5
  )
  np.testing.assert_array_equal(outputs.base, alone.semantic)
  assert np.abs(outputs.error - alone.error).max() > 0.1
  np.testing.assert_allclose(
    outputs.detail, outputs.semantic, atol=1e-5
  )  # residual: it starts at the guided scores


def test_guidance_stands_before_the_subnets(tiny_config):
  config = tiny_config(order=("semantic", "guidance", "subnets"), groups__named=(("ground", "sign"),))
  model = assemble.model(assemble.with_defaults(config), 3)
  variables = model.init(jax.random.key(0), IMAGE)
  outputs = infer(model, with_scores(variables, [9.0, 0.0, 0.0]), IMAGE, ())
  alone = infer(model.clone(guidance=None, subnets=None), variables, IMAGE, ())
  np.testing.assert_array_equal(outputs.base, alone.semantic)
  before = infer(model.clone(guidance=None), variables, IMAGE, ()).semantic
  assert (jax.nn.softmax(outputs.semantic) - jax.nn.softmax(before))[..., 0].mean() > 0.01


@pytest.mark.parametrize(("channels", "reduced"), [(16, True), (8, False)])
def test_only_wider_maps_are_reduced(channels, reduced):
  features = Features(jnp.zeros((1, 4, 4, 3)), high=jnp.ones((1, 4, 4, channels)))
  head = Guidance(3, features=8, hidden=4, cells=2)
  params = head.init(jax.random.key(0), features, False)["params"]
  assert ("reduce" in params) == reduced
  assert params["fc1"]["kernel"].shape == (2 * 2 * 8, 4)


def test_a_network_without_a_map_is_guided_by_its_logits():
  features = Features(jnp.ones((1, 4, 4, 3)))
  head = Guidance(3, features=8, hidden=4, cells=2)
  variables = head.init(jax.random.key(0), features, False)
  assert head.apply(variables, features, False).shape == (1, 3)


def test_half_precision_ends_in_float32():
  features = Features(jnp.ones((1, 4, 4, 3), jnp.bfloat16), high=jnp.ones((1, 4, 4, 8), jnp.bfloat16))
  head = Guidance(3, features=8, hidden=4, cells=2, dtype="bfloat16")
  assert head.apply(head.init(jax.random.key(0), features, False), features, False).dtype == jnp.float32
