"""Weights of views: planted ones are found, and a call that was cut short goes on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy import optimize, special

from errseg_jax.errors import UserError
from errseg_jax.inference import combination
from errseg_jax.inference.combination import (
  choose_combination,
  fingerprint,
  fit_combination,
  store_candidates,
  write_shard,
)
from errseg_jax.inference.evaluator import Evaluator
from errseg_jax.models.error_aware import ErrorAware, infer
from errseg_jax.models.tiles import Tiles
from errseg_jax.models.views import Padding, Views
from errseg_jax.sharding import make_mesh
from errseg_jax.structs import Features

PADDING = Padding(8, 0, (124, 116, 104))
VIEWS = Views(PADDING, (1.0,), True, "learned")


class Net(nn.Module):
  """Says what a pixel's colour is, and differs from left to right."""

  mean: tuple[float, float, float] = (124, 116, 104)

  @nn.compact
  def __call__(self, image, train=False):
    scale = self.param("scale", nn.initializers.ones, (3,))
    ramp = jnp.linspace(0, 1, image.shape[2]).reshape(1, 1, -1, 1)
    return Features(image / 40 * scale.reshape(1, 1, 1, 3) * ramp)


class Source:
  """Images of two sizes; the last one has three labelled pixels."""

  names = tuple(map(str, range(5)))

  def __len__(self):
    return 5

  def __getitem__(self, index):
    rng = np.random.default_rng(index)
    size = (16, 24) if index % 2 else (13, 24)
    label = rng.integers(0, 3, size).astype(np.uint8)
    if index == 4:
      label[:] = 255
      label[5, 3:6] = 1
    return {
      "image": rng.integers(0, 256, (*size, 3)).astype(np.uint8),
      "label": label,
      "name": str(index),
    }


def evaluator():
  options = {"size_multiple": 8, "size_remainder": 0, "pad_value": (0, 0, 0), "threads": 1}
  return Evaluator(make_mesh(1), batch_size=2, **options)


def network(**fields):
  model = ErrorAware(Net(), None, None, views=VIEWS, **fields)
  return model, model.init(jax.random.key(0), np.zeros((1, 16, 24, 3), np.uint8), wanted=())


@pytest.mark.parametrize("tiles", [None, Tiles(8, 16, 0)])
def test_what_is_stored_are_the_scores_of_each_view(tmp_path, tiles):
  """All pixels are picked, so that the learned combination of what is stored is that of the network itself."""
  model, variables = network(tiles=tiles)
  pixels = 16 * 24
  paths = store_candidates(
    tmp_path / "shards", evaluator(), model, variables, Source(), max_pixels=5 * pixels
  )
  weights = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
  tuned = {**variables, "tuned": {"combination": weights}}
  for (batch, names), path in zip(evaluator().batches(Source()), paths, strict=True):
    with np.load(path) as file:
      scores, label = file["scores"], file["label"]
    assert (scores.dtype, scores.shape) == (np.float16, (2, 2 * pixels, 3))
    got = np.einsum("knc,kc->nc", scores.astype(np.float32), weights)
    want = np.asarray(infer(model, tuned, batch.image, ()).semantic)
    np.testing.assert_array_equal(np.bincount(label), np.bincount(np.ravel(batch.label), minlength=256))
    for c in range(3):  # the pixels come in another order
      own, true = np.sort(got[label == c], 0), np.sort(want[batch.label == c], 0)
      np.testing.assert_allclose(own, true, atol=2e-2, err_msg=str(names))


def test_shards_stay_bounded_and_hold_no_pixel_twice(tmp_path):
  model, variables = network()
  paths = store_candidates(tmp_path, evaluator(), model, variables, Source(), max_pixels=50)
  shards = [combination.read_shard(path) for path in paths]
  assert sum(len(shard["label"]) for shard in shards) <= 10 * 2 * len(paths)
  labelled = sum((shard["label"] != 255).sum() for shard in shards)
  assert labelled == 4 * 10 + 3  # of the last image all there are
  seen = np.concatenate([s["scores"][0][s["label"] != 255] for s in shards])
  assert len(np.unique(seen, axis=0)) > 40


def test_a_call_that_was_cut_short_goes_on(tmp_path, monkeypatch):
  model, variables = network()
  whole = store_candidates(tmp_path / "whole", evaluator(), model, variables, Source(), max_pixels=100)
  folder, written = tmp_path / "cut", []
  write = combination.write_shard

  def cut(path, **arrays):
    if len(written) == 2:
      raise KeyboardInterrupt
    written.append(path)
    write(path, **arrays)

  monkeypatch.setattr(combination, "write_shard", cut)
  with pytest.raises(KeyboardInterrupt):
    store_candidates(folder, evaluator(), model, variables, Source(), max_pixels=100)
  monkeypatch.setattr(
    combination, "write_shard", lambda path, **arrays: (written.append(path), write(path, **arrays))
  )
  paths = store_candidates(folder, evaluator(), model, variables, Source(), max_pixels=100)
  assert written == paths  # each once
  for a, b in zip(paths, whole, strict=True):
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("change", ["network", "views", "pixels"])
def test_shards_of_something_else_are_refused(tmp_path, change):
  model, variables = network()
  store_candidates(tmp_path, evaluator(), model, variables, Source(), max_pixels=100)
  pixels = 100
  if change == "network":
    variables = jax.tree.map(lambda x: x + 1, variables)
  elif change == "views":
    model = model.clone(views=Views(PADDING, (0.5, 1.0)))
  else:
    pixels = 50
  with pytest.raises(UserError, match=r"remove .*"):
    store_candidates(tmp_path, evaluator(), model, variables, Source(), max_pixels=pixels)


def test_tuned_weights_are_no_part_of_the_network():
  _, variables = network()
  assert fingerprint({**variables, "tuned": {"combination": np.ones(3)}}) == fingerprint(variables)


def planted(folder, seeds, pixels=600):
  """View 0 knows class 0 from the rest and view 1 class 1; of class 2 both know half. Noise elsewhere."""
  paths = []
  for seed in seeds:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, pixels)
    scores = rng.normal(0, 3, (2, pixels, 3))
    truth = 3 * np.eye(3)[label]
    for view in (0, 1):
      scores[view, :, view] = truth[:, view] + rng.normal(0, 1.5, pixels)
      scores[view, :, 2] = truth[:, 2] + rng.normal(0, 2, pixels)
    label[:50] = 255
    path = folder / f"{seed}.npz"
    write_shard(path, scores=scores.astype(np.float16), label=label.astype(np.uint8), of=np.array("planted"))
    paths.append(path)
  return paths


def accuracy(paths, weights):
  right = []
  for path in paths:
    shard = combination.read_shard(path)
    z = np.einsum("knc,kc->nc", shard["scores"].astype(np.float64), weights)
    right.append((z.argmax(-1) == shard["label"])[shard["label"] != 255])
  return np.concatenate(right).mean()


def test_planted_views_are_found_and_gain_on_pixels_that_fitted_nothing(tmp_path):
  train, held_out = planted(tmp_path, range(8)), planted(tmp_path, range(8, 12))
  weights, losses = fit_combination(train, 3, VIEWS)
  assert (weights.shape, weights.dtype) == ((2, 3), np.float32)
  assert weights[0, 0] > 4 * abs(weights[1, 0])
  assert weights[1, 1] > 4 * abs(weights[0, 1])
  mean = np.full((2, 3), 0.5)
  assert accuracy(held_out, weights) > accuracy(held_out, mean) + 0.1
  assert losses[-1] < losses[0] - 0.1
  assert len(losses) == combination.STEPS / 8 + 1


def test_what_is_found_is_the_minimum_and_starts_at_the_mean(tmp_path):
  train = planted(tmp_path, range(4))
  weights, losses = fit_combination(train, 3, VIEWS)
  shards = [combination.read_shard(path) for path in train]
  z = np.concatenate([s["scores"] for s in shards], 1).astype(np.float64)
  label = np.concatenate([s["label"] for s in shards])
  z, label = z[:, label != 255], label[label != 255]

  def loss(flat):
    combined = np.einsum("knc,kc->nc", z, flat.reshape(2, 3))
    own = combined[np.arange(len(label)), label]
    return (special.logsumexp(combined, -1) - own).mean()

  best = optimize.minimize(loss, np.full(6, 0.5))
  assert losses[0] == pytest.approx(loss(np.full(6, 0.5)), abs=1e-5)
  assert losses[-1] == pytest.approx(loss(weights.ravel().astype(np.float64)), abs=1e-5)
  assert losses[-1] == pytest.approx(best.fun, abs=1e-3)


def test_strength_pulls_towards_the_mean(tmp_path):
  train = planted(tmp_path, range(4))
  away = [abs(fit_combination(train, 3, VIEWS, strength)[0] - 0.5).max() for strength in (0.0, 0.3, 1e3)]
  assert away[0] > away[1] > 10 * away[2]


def test_weights_that_other_images_gain_by_are_kept(tmp_path):
  train, held_out = planted(tmp_path, range(6)), planted(tmp_path, range(8, 12))
  weights, scores = choose_combination(train, 3, VIEWS)
  assert list(scores) == ["mean", *(f"strength {s:g}" for s in combination.STRENGTHS)]
  assert max(scores.values()) > scores["mean"] + 5
  assert accuracy(held_out, weights) > accuracy(held_out, np.full((2, 3), 0.5)) + 0.1


def test_where_nothing_but_noise_can_be_learned_it_is_the_mean(tmp_path):
  """Few pixels, many classes, views that are alike: a fit without strength learns these pixels by heart."""
  rng, paths, classes = np.random.default_rng(0), [], 20
  for number in range(6):
    label = rng.integers(0, classes, 40)
    truth = 2 * np.eye(classes)[label]
    scores = np.stack([truth + rng.normal(0, 1.5, truth.shape) for _ in range(2)])
    paths.append(tmp_path / f"{number}.npz")
    write_shard(paths[-1], scores=scores.astype(np.float16), label=label.astype(np.uint8), of=np.array(""))
  weights, scores = choose_combination(paths, classes, VIEWS)
  free = fit_combination(paths, classes, VIEWS)[0]
  assert scores["strength 0"] < scores["mean"]
  assert abs(weights - 0.5).max() < 0.3 * abs(free - 0.5).max()


def test_shards_that_do_not_fit_are_refused(tmp_path):
  (path,) = planted(tmp_path, [0])
  with pytest.raises(UserError, match="4 classes"):
    fit_combination([path], 4, VIEWS)
  with pytest.raises(UserError, match="4 views"):
    fit_combination([path], 3, Views(PADDING, (1.0, 1.5), True))
  path.write_bytes(path.read_bytes()[:500])
  with pytest.raises(UserError, match="damaged"):
    fit_combination([path], 3, VIEWS)
  write_shard(
    path,
    scores=np.zeros((2, 5, 3), np.float16),
    label=np.full(5, 255, np.uint8),
    of=np.array(""),
  )
  with pytest.raises(UserError, match="no stored pixel"):
    fit_combination([path], 3, VIEWS)
