"""Where a form runs: by device, by what is asked for, and in a network's losses and predictions."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax import assemble
from errseg_jax.inference.choice import Choice
from errseg_jax.inference.network import TrainedNetwork
from errseg_jax.kernels import DetailTerms, Terms, dispatch, fused_sums
from errseg_jax.models.error_aware import infer, infer_coarse
from errseg_jax.models.error_branch import unweighted
from errseg_jax.models.resize import resize
from errseg_jax.pixel_losses import Confusion

BOTH = Terms(rho=0.95, detail=DetailTerms("soft"))


@pytest.fixture
def ran(monkeypatch):
  """Names of the forms that ran."""
  found = []

  def record(module, name):
    own = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args: found.append(name) or own(*args))

  for name in ("banded_sums", "banded_labels", "pallas_sums", "pallas_labels"):
    record(dispatch, name)
  return found


@pytest.mark.parametrize("backend", ["tpu", "gpu"])
def test_auto_takes_the_kernel_on_an_accelerator_and_bands_elsewhere(kit, monkeypatch, ran, backend):
  coarse, label = kit.make_maps(kernels="auto")
  fused_sums(coarse, label, BOTH)
  assert ran == ["banded_sums"]
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  program = jax.jit(lambda c, y: fused_sums(c, y, BOTH).detail).trace(coarse, label)
  assert ran == ["banded_sums", "pallas_sums"]
  assert "pallas_call" in str(program.jaxpr)


@pytest.mark.parametrize(
  ("terms", "changes", "reason"),
  [
    (BOTH, {"size": (13, 17)}, "no whole multiple"),
    (Terms(detail=DetailTerms(pixel=Confusion())), {"num_classes": 40}, "more than 32 classes"),
    (BOTH, {"prior": "msp"}, "prior is trained"),
    (BOTH, {"finer": 2}, "finer than the semantic ones"),
  ],
)
def test_what_no_kernel_takes_goes_by_bands_with_one_line_said(kit, caplog, ran, terms, changes, reason):
  size = changes.pop("size", None)
  coarse, label = kit.make_maps(**changes)
  if size:
    coarse, label = coarse.replace(size=size), label[:, : size[0], : size[1]]
    label = jnp.pad(label, ((0, 0), *((0, n - m) for n, m in zip(size, label.shape[1:], strict=True))))
  dispatch.told.cache_clear()
  matrix = jnp.eye(coarse.semantic.shape[-1])
  with caplog.at_level(logging.INFO, "errseg"):
    for _ in range(2):
      jax.eval_shape(lambda c: fused_sums(c, label, terms, matrix), coarse)
  assert set(ran) == {"banded_sums"}
  (line,) = [r.message for r in caplog.records]
  assert line.startswith("fused loss: banded (")
  assert reason in line


def build(config):
  """The network of a config with random variables, and an image."""
  model = assemble.model(assemble.with_defaults(config), 3)
  image = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)
  return model, jax.jit(model.init)(jax.random.key(0), image), image


@pytest.mark.parametrize("prior", ["msp", "detail"])
def test_a_network_s_logits_are_interpolated_from_its_coarse_maps(tiny_config, kit, prior):
  weights = (1.0, 2.0, 0.5)
  config = tiny_config(error_branch__prior=prior, detail_loss__class_weights=weights)
  config.segmenter.head.align_corners, config.segmenter.size_remainder = True, 1
  model, variables, image = build(config)
  leaves, tree = jax.tree.flatten(variables)  # zeros at the start would hide the branches
  rng = np.random.default_rng(1)
  variables = jax.tree.unflatten(tree, [x + rng.normal(0, 0.1, x.shape).astype(np.float32) for x in leaves])
  outputs = jax.jit(functools.partial(infer_coarse, model))(variables, image)
  want = jax.jit(kit.full_size)(outputs.coarse)
  plain = jax.jit(functools.partial(infer, model.clone(kernels="reference")))(variables, image)
  for name in ("semantic", "detail", "error"):
    np.testing.assert_allclose(getattr(want, name), getattr(outputs, name), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(getattr(plain, name), getattr(outputs, name), rtol=1e-4, atol=1e-4)
  # What the error branch sees of the detail branch comes without the full-size map too.
  belief = resize(unweighted(outputs.detail, weights), (9, 13))
  np.testing.assert_allclose(model.sampled_belief(outputs.coarse, (9, 13)), belief, rtol=1e-4, atol=1e-4)
  assert jax.eval_shape(functools.partial(infer, model), variables, image).coarse is None
  assert plain.coarse is None


def test_predictions_take_the_kernel_by_default_and_say_what_the_reference_says(tiny_config, ran):
  config = assemble.with_defaults(tiny_config(error_branch__prior="detail"))
  model, variables, image = build(config)
  network = TrainedNetwork(config, assemble.dataset(config).info, model, variables, Choice("soft"))
  got = network.predict(image[0])
  assert ran == ["banded_labels"]
  other = TrainedNetwork(config, network.info, model.clone(kernels="reference"), variables, Choice("soft"))
  want = other.predict(image[0])
  assert len(ran) == 1
  np.testing.assert_allclose(got.error_probability, want.error_probability, rtol=1e-4, atol=1e-5)
  assert (got.labels == want.labels).mean() > 0.99


def test_an_unknown_form_is_refused_with_the_known_ones(tiny_config):
  with pytest.raises(Exception, match=r"config\.kernels='palas'.*pallas"):
    build(tiny_config(kernels="palas"))
