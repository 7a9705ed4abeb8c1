"""Counting band by band: the counts of the whole maps, in a fraction of their memory."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax import assemble
from errseg_jax.inference.choice import Choice
from errseg_jax.inference.statistics import make_counter
from errseg_jax.kernels import banded, dispatch
from errseg_jax.models.fusion import FUSIONS
from errseg_jax.sharding import make_mesh, place, shard_batch
from errseg_jax.structs import Batch
from errseg_jax.train.restore import load
from errseg_jax.train.workdir import load_config

CHOICE = Choice("soft", threshold=0.4, scale=0.8, offset=0.3, temperature=1.3, unweight=0.5, gate=(0.2,) * 6)
EVERYTHING = {
  "fusions": FUSIONS,
  "thresholds": (0.1, 0.3, 0.6),
  "fusion": "soft",
  "fits": True,
  "oracle": True,
}


def network(trained, kernels):
  config = load_config(trained)
  config.num_devices, config.kernels = 1, kernels
  return load(trained, config)


def batch_of(trained, count=3, size=(45, 61)):
  rng = np.random.default_rng(0)
  label = rng.integers(0, 3, (count, *size)).astype(np.uint8)
  label[:, :4] = 255
  label[-1] = 255
  return Batch(rng.integers(0, 256, (count, *size, 3), np.uint8), label)


def moved(counts, others):
  """Pixels that were counted elsewhere."""
  return np.abs(counts.astype(int) - others).sum() / 2


def counts_of(net, batch, wanted=("error", "detail"), model=None, **options):
  counter = make_counter(model or net.model, wanted=wanted, **options)
  return jax.device_get(counter(net.variables, batch, CHOICE.arrays()))


@pytest.mark.parametrize("wanted", [(), ("error",), ("detail",), ("error", "detail")])
def test_counts_by_bands_are_those_of_the_whole_maps(trained, monkeypatch, wanted):
  monkeypatch.setattr(banded, "BAND", 3 * 61 * 7)  # seven rows, of 45
  options = dict(EVERYTHING)
  if wanted != ("error", "detail"):
    options |= {"fusions": ("semantic",), "thresholds": (), "fusion": "semantic"}
  batch = batch_of(trained)
  expected = counts_of(network(trained, "reference"), batch, wanted, **options)
  found = counts_of(network(trained, "auto"), batch, wanted, **options)
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    assert found[name].dtype == value.dtype
    if value.dtype.kind == "f":
      np.testing.assert_allclose(found[name], value, rtol=2e-4, atol=1e-3, err_msg=name)
    else:  # a logit that is rounded otherwise may fall into the next bin
      assert moved(found[name], value) <= 0.005 * value.sum(), name
      assert found[name].sum() == value.sum(), name


def test_confusion_matrices_are_exact_where_no_scores_tie(trained):
  batch = batch_of(trained)
  names = ("confusion/semantic", "confusion/detail", "confusion/fused", "by_threshold", "image/right")
  expected = counts_of(network(trained, "reference"), batch, **EVERYTHING)
  found = counts_of(network(trained, "auto"), batch, **EVERYTHING)
  for name in names:
    np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_a_batch_split_over_devices_counts_alike(trained):
  net, batch = network(trained, "auto"), batch_of(trained, 8)
  one, mesh = counts_of(net, batch, **EVERYTHING), make_mesh(8)
  split = Batch(**shard_batch({"image": batch.image, "label": batch.label}, mesh))
  net = dataclasses.replace(net, variables=place(net.variables, mesh))
  for name, value in counts_of(net, split, **EVERYTHING).items():
    if value.dtype.kind == "f":
      np.testing.assert_allclose(value, one[name], rtol=2e-4, atol=1e-3, err_msg=name)
    else:
      assert moved(value, one[name]) <= 0.005 * value.sum(), name


def test_auto_counts_by_bands_and_says_so(trained, caplog):
  dispatch.told.cache_clear()
  with caplog.at_level(logging.INFO, "errseg"):
    counts_of(network(trained, "auto"), batch_of(trained), fusion="soft")
  assert "fused counts: banded" in caplog.text


def test_memory_is_that_of_bands(trained):
  """Of the compiled programs, 19 classes at 513x1025: the network's own maps are in both."""
  shape = (1, 513, 1025)
  batch = Batch(jax.ShapeDtypeStruct((*shape, 3), jnp.uint8), jax.ShapeDtypeStruct(shape, jnp.uint8))

  def temporary(kernels):
    config = load_config(trained)
    config.num_devices, config.kernels, config.detail_loss.class_weights = 1, kernels, ()
    model = assemble.model(config, 19)
    image = jnp.zeros((1, 64, 64, 3), jnp.uint8)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    counter = make_counter(model, wanted=("error", "detail"), fusions=("soft", "mean"), fusion="soft")
    compiled = counter.lower(variables, batch, CHOICE.arrays()).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  bands, whole = temporary("auto"), temporary("reference")
  assert bands < whole / 3, (bands, whole)
