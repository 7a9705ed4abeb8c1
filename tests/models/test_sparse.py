"""Sparse correction: what runs on tiles comes out as of the whole map, and the rest keeps the frozen logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax import assemble
from errseg_jax.errors import UserError
from errseg_jax.models import sparse as module
from errseg_jax.models.detail_branch import DetailBranch, FinestBlock
from errseg_jax.models.error_aware import infer, single_pass
from errseg_jax.models.layers import PixelGroupNorm
from errseg_jax.models.patches import Patches, by_tile
from errseg_jax.models.resize import resize
from errseg_jax.models.sparse import Sparse, counts, doubt, on_wanted, patches, sample_size
from errseg_jax.structs import Features

SIDE = 8


def block(norm, size, seed=0):
  """(finest block, its variables, low, x) with features and parameters at random."""
  rng = np.random.default_rng(seed)
  low = jnp.asarray(rng.normal(size=(1, *size, 5)), jnp.float32)
  x = jnp.asarray(rng.normal(size=(1, -(-size[0] // 2), -(-size[1] // 2), 6)), jnp.float32)
  finest = FinestBlock(8, 2, norm=norm, num_classes=3)
  variables = jax.jit(finest.init)(jax.random.key(seed), low, x)
  random = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape) * 0.3, p.dtype), variables)
  return finest, random, low, x


@pytest.mark.parametrize("size", [(24, 32), (21, 9)])
def test_every_tile_comes_out_as_of_the_whole_map(size):
  """Corners and odd borders included, where the convolutions pad with zeros layer by layer."""
  finest, variables, low, x = block("pixel_group", size)
  rows, columns = -(-size[0] // SIDE), -(-size[1] // SIDE)
  count = rows * columns
  tiles = Patches(jnp.arange(count), jnp.ones(count), SIDE, size)
  got = finest.apply(variables, low, x, tiles)
  got = got.reshape(rows, columns, SIDE, SIDE, -1).swapaxes(1, 2).reshape(1, rows * SIDE, columns * SIDE, -1)
  whole = finest.apply(variables, low, x)
  np.testing.assert_allclose(
    got[:, : size[0], : size[1]], whole, atol=1e-4 * float(np.abs(whole).max()), rtol=0
  )


@pytest.mark.parametrize("size", [(21, 27)])
def test_statistics_over_all_tiles_are_those_of_the_map(size):
  finest, variables, low, x = block("group", size)
  whole = finest.apply(variables, low, x)
  count = -(-size[0] // SIDE) * -(-size[1] // SIDE)
  tiles = Patches(jnp.arange(count), jnp.ones(count), SIDE, size)
  got = finest.apply(variables, low, x, tiles)
  np.testing.assert_allclose(got[0], whole[0, :SIDE, :SIDE], atol=1e-4 * float(np.abs(whole).max()), rtol=0)


def test_a_sample_stands_for_the_tiles_that_are_not_wanted():
  mass = jnp.asarray(np.random.default_rng(0).permutation(64) / 64, jnp.float32)
  threshold = 50.5 / 64
  chosen = {count: patches(mass, threshold, count, SIDE, (64, 64)) for count in (20, 40)}
  wanted, sample = 13, sample_size(64)
  for count, tiles in chosen.items():
    assert (mass[tiles.index[:wanted]] > threshold).all()
    assert tiles.weight.tolist() == [1.0] * wanted + [51 / sample] * sample + [0.0] * (
      count - wanted - sample
    )
    assert float(tiles.weight.sum()) == 64
  used = [tiles.index[: wanted + sample].tolist() for tiles in chosen.values()]
  assert used[0] == used[1]
  assert len(set(used[0])) == wanted + sample
  # Evenly over the order of the mass.
  assert [round(float(mass[i]) * 64) for i in used[0][wanted:]] == [44, 31, 19, 6]


def test_doubt_is_the_mean_of_what_max_probability_leaves():
  logits = np.zeros((4, 6, 3), np.float32)
  logits[:2, :2, 0] = 50.0
  got = doubt(jnp.asarray(logits), (4, 6), 2)
  np.testing.assert_allclose(got, [0, *[2 / 3] * 5], atol=1e-6)


def test_the_last_tile_of_a_row_is_the_mean_of_its_own_cells():
  assert by_tile(jnp.asarray([[1.0, 1.0, 4.0]]), 2).tolist() == [1.0, 4.0]


@pytest.fixture
def small_margins(monkeypatch):
  """Tiles that would not pay on a map as small as the tests' run all the same."""
  monkeypatch.setattr(module, "MOST", 4.0)


@pytest.mark.parametrize("norm", ["group", "pixel_group"])
@pytest.mark.parametrize(("share", "runs"), [(0.0, "some"), (0.3, "some"), (1.0, "whole")])
def test_wanted_tiles_are_dense_and_the_others_nothing(small_margins, norm, share, runs):
  """Most tiles wanted: the whole map runs."""
  size = (32, 48)
  finest, variables, low, x = block(norm, size)
  mass = jnp.asarray(np.random.default_rng(1).random(24) + 0.1, jnp.float32)
  threshold = {0.0: 1.1, 0.3: float(np.quantile(mass, 0.7)), 1.0: 0.05}[share]

  def work(low, x, tiles):
    return finest.apply(variables, low, x, tiles)

  got, known = on_wanted(work, low, x, mass, Sparse(threshold, 16), SIDE, norm == "group")
  whole = finest.apply(variables, low, x)
  wanted = np.asarray(mass > threshold).reshape(4, 6).repeat(SIDE, 0).repeat(SIDE, 1)
  assert known.all() == (runs == "whole")
  assert (np.asarray(known)[0, ..., 0] == wanted).all()
  assert (got[0][~wanted] == 0).all()
  error = np.abs(got[0] - whole[0])[wanted].max(initial=0) / np.abs(whole).max()
  assert error <= {"group": 0.3, "pixel_group": 1e-4}[norm] if runs == "some" else 1e-6
  if share == 0.3 and norm == "group":
    assert error > 1e-3  # statistics of a sample


def test_a_program_has_few_counts_and_they_pay():
  for size in ((96, 128), (513, 1025), (45, 61), (8, 8)):
    found = counts(size, 16)
    assert len(found) <= 4
    assert list(found) == sorted(set(found))
    assert all(n * 22 * 22 <= 0.85 * size[0] * size[1] for n in found)
  assert counts((8, 8), 16) == ()


class Doubtful:
  """A detail branch with random parameters over features of three strides, doubtful in some places."""

  def __init__(self, norm, residual, batch=3, size=(96, 128)):
    rng = np.random.default_rng(0)
    height, width = size
    low = tuple(rng.normal(size=(batch, height // s, width // s, 6)) for s in (2, 4, 8))
    logits = rng.normal(size=(batch, height // 4, width // 4, 3))
    logits[..., 0] += 12 * (rng.random((batch, height // 16, width // 16)) < 0.7).repeat(4, 1).repeat(4, 2)
    low, logits = tuple(jnp.asarray(x, jnp.float32) for x in low), jnp.asarray(logits, jnp.float32)
    self.image = jnp.zeros((batch, *size, 3), jnp.uint8)
    self.features = Features(logits, low, low[-1], (2, 4, 8))
    self.semantic = resize(logits, size)
    self.branch = DetailBranch(3, (8, 8, 8), norm=norm, residual=residual)
    variables = jax.jit(self.branch.init)(jax.random.key(0), self.image, self.features, self.semantic)
    self.variables = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape) * 0.3, p.dtype), variables)

  def run(self, sparse, images=slice(None)):
    """(logits, share of tiles that ran) of some of the images."""
    image, features, semantic = jax.tree.map(lambda x: x[images], (self.image, self.features, self.semantic))
    apply = jax.jit(lambda v, *a: self.branch.apply(v, *a, sparse=sparse, mutable=["intermediates"]))
    out, kept = apply(self.variables, image, features, semantic)
    return np.asarray(out), kept.get("intermediates", {}).get("worked", [None])[0]


@pytest.mark.parametrize("residual", [False, True])
def test_the_branch_is_dense_where_it_is_wanted_and_the_frozen_network_elsewhere(small_margins, residual):
  case = Doubtful("pixel_group", residual)
  sparse = Sparse(0.2, 16)
  dense, got = case.run(None)[0], case.run(sparse)[0]
  mass = jax.vmap(lambda z: doubt(z, (48, 64), 8))(case.features.logits)
  wanted = np.asarray(mass > 0.2).reshape(3, 6, 8)
  assert 0.2 < wanted.mean() < 0.6
  inner = np.ones((16, 16), bool)
  inner[[0, -1]] = inner[:, [0, -1]] = False  # what is interpolated from another tile's cells too
  inside = wanted.repeat(16, 1).repeat(16, 2) & np.tile(inner, (6, 8))
  outside = ~wanted.repeat(16, 1).repeat(16, 2) & np.tile(inner, (6, 8))
  scale = np.abs(dense).max()
  np.testing.assert_allclose(got[inside], dense[inside], atol=1e-4 * scale, rtol=0)
  assert (got[outside] == case.semantic[outside]).all()
  assert np.abs(dense[outside] - case.semantic[outside]).max() > 1e-3 * scale


@pytest.mark.parametrize("norm", ["group", "pixel_group"])
def test_an_image_comes_out_the_same_in_every_batch(small_margins, norm):
  """Whatever the others want, and how many: `evaluate` and `predict` see the same labels."""
  case = Doubtful(norm, True)
  together, share = case.run(Sparse(0.2, 16))
  assert len(set(share.tolist())) > 1 or share[0] < 1
  for i in range(3):
    alone, own = case.run(Sparse(0.2, 16), slice(i, i + 1))
    assert own[0] == share[i]
    np.testing.assert_allclose(alone[0], together[i], atol=1e-5 * np.abs(together).max(), rtol=0)


def test_one_program_serves_images_that_want_any_number_of_tiles(small_margins):
  case = Doubtful("pixel_group", True)
  traces = []

  @jax.jit
  def run(variables, logits):
    traces.append(1)
    features = Features(logits, case.features.low, case.features.high, case.features.strides)
    args = (case.image, features, case.semantic)
    return case.branch.apply(variables, *args, sparse=Sparse(0.2, 16), mutable=["intermediates"])[1]

  shares = set()
  ramp = np.zeros((3, 24, 32, 3), np.float32)
  ramp[..., 0] = np.linspace(0, 12, 32)
  for sure in np.linspace(-12, 8, 11):
    logits = jnp.asarray(ramp + np.array([sure, 0, 0], np.float32))
    shares |= set(run(case.variables, logits)["intermediates"]["worked"][0].tolist())
  assert len(traces) == 1
  assert 2 < len(shares) <= module.BUCKETS + 1
  assert 1.0 in shares


def test_a_network_at_rest_uses_it_and_a_single_pass_does_not(small_margins, tiny_config):
  config = assemble.with_defaults(tiny_config(error_branch__prior="detail"))
  dense = single_pass(assemble.model(config, 3))
  image = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
  image[:, :32] = 0
  variables = jax.jit(dense.init)(jax.random.key(0), image)
  variables["params"]["detail"]["classifier"]["kernel"] += 0.3
  whole = jax.jit(lambda v, x: infer(dense, v, x))(variables, image)
  doubts = by_tile(1 - jax.nn.softmax(whole.semantic[0]).max(-1), 16)
  sparse = dense.clone(sparse=Sparse(float(np.median(doubts)), 16))
  got = jax.jit(lambda v, x: infer(sparse, v, x))(variables, image)
  assert (whole.semantic == got.semantic).all()
  same = np.asarray(got.detail == got.semantic).all(-1)
  assert 0 < same.mean() < 1
  assert not np.asarray(whole.detail == whole.semantic).all(-1).any()
  assert np.abs(whole.error - got.error).max() > 0  # it reads the sparse branch's logits
  trained = sparse.apply(variables, image)  # as a training step calls it
  np.testing.assert_allclose(trained.detail, whole.detail, atol=1e-4)


def test_pixel_group_norm_looks_at_one_pixel():
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, 4, 5, 24)), jnp.float32)
  norm = PixelGroupNorm()
  variables = norm.init(jax.random.key(0), x)
  got = np.asarray(norm.apply(variables, x)).reshape(2, 4, 5, 2, 12)
  grouped = np.asarray(x).reshape(2, 4, 5, 2, 12)
  want = (grouped - grouped.mean(-1, keepdims=True)) / np.sqrt(grouped.var(-1, keepdims=True) + 1e-5)
  np.testing.assert_allclose(got, want, atol=1e-5)
  assert variables["params"]["scale"].shape == (24,)


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"sparse__threshold": 1.0}, "below 1"),
    ({"sparse__threshold": -0.1}, "at least 0"),
    ({"sparse__tile": 0}, "tile=0"),
    ({"detail_branch__norm": "batch"}, "pixel_group"),
  ],
)
def test_settings_that_make_no_sense_are_refused(changes, says, tiny_config):
  config = assemble.with_defaults(tiny_config())
  for key, value in changes.items():
    section, name = key.split("__")
    config[section][name] = value
  with pytest.raises(UserError, match=says):
    assemble.model(config, 3)


@pytest.mark.parametrize("changes", [{"sparse__threshold": 0.0}, {"detail_branch__name": "layer_cascade"}])
def test_it_may_be_off_and_is_for_the_plain_branch(changes, tiny_config):
  assert assemble.model(assemble.with_defaults(tiny_config(**changes)), 3).sparse is None
