import itertools

import numpy as np
import pytest

from errseg_jax.data.class_groups import PUBLISHED, resolve
from errseg_jax.data.datasets.cityscapes import INFO
from errseg_jax.errors import UserError
from errseg_jax.metrics.class_groups import (
  METHODS,
  Discovery,
  aggregated,
  checked_counts,
  inside_and_across,
  off_diagonal,
  row_normalised,
)

SIZES = (6, 4, 3)


def planted(seed, num_classes=19):
  """Pixel counts [C, C] with three planted groups, and those, the most confused first.

  Classes of one group take about a tenth of each other's pixels; all else is noise of up to 1 %.
  """
  rng = np.random.default_rng(seed)
  ends = np.cumsum(SIZES)
  parts = np.split(rng.permutation(num_classes)[: ends[-1]], ends[:-1])
  shares = rng.uniform(0, 0.01, (num_classes, num_classes))
  for strength, part in zip((0.1, 0.12, 0.12), parts, strict=True):
    for i, j in itertools.permutations(part, 2):
      shares[i, j] = strength * rng.uniform(0.8, 1.2)
  np.fill_diagonal(shares, 0)
  np.fill_diagonal(shares, 1 - shares.sum(1))
  pixels = 10 ** rng.uniform(4, 8, num_classes)  # rare classes and frequent ones
  return np.round(shares * pixels[:, None]).astype(np.int64), tuple(tuple(sorted(map(int, p))) for p in parts)


def test_rows_of_n_sum_to_one_and_an_absent_class_has_a_row_of_zero():
  counts = np.array([[6, 2, 0], [0, 0, 0], [1, 0, 3]])
  n = row_normalised(counts)
  np.testing.assert_array_equal(n, [[0.75, 0.25, 0], [0, 0, 0], [0.25, 0, 0.75]])
  assert n.dtype == np.float64
  assert Discovery(threshold=0.1)(counts) == ((0, 1, 2),)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(10))
def test_planted_groups_are_found_exactly(method, seed):
  counts, groups = planted(seed)
  assert Discovery(method, 0.05, 3)(counts) == groups
  assert Discovery(method, 0.05, 5)(counts) == groups
  assert Discovery(method, 0.05, 2)(counts) == groups[:2]


@pytest.mark.parametrize("method", METHODS)
def test_small_noise_changes_no_group(method):
  rng = np.random.default_rng(0)
  for seed in range(20):
    counts, groups = planted(seed)
    noisy = np.round(counts * rng.uniform(0.95, 1.05, counts.shape)).astype(np.int64)
    assert not np.array_equal(noisy, counts)
    assert Discovery(method, 0.05)(noisy) == groups


def test_components_stand_noise_wherever_no_pair_is_near_the_threshold():
  """On matrices without any planted structure: pairs are below 0.04 or above 0.06."""
  found = 0
  for seed in range(20):
    rng = np.random.default_rng(seed)
    pairs = np.triu(np.where(rng.random((21, 21)) < 0.05, rng.uniform(0.06, 0.08), rng.uniform(0, 0.001)), 1)
    shares = pairs + pairs.T
    np.fill_diagonal(shares, 1 - shares.sum(1))
    counts = np.round(1e7 * shares).astype(np.int64)
    groups = Discovery("components", 0.05, 21)(counts)
    found += len(groups)
    for _ in range(3):
      noisy = np.round(counts * rng.uniform(0.95, 1.05, counts.shape)).astype(np.int64)
      assert set(Discovery("components", 0.05, 21)(noisy)) == set(groups)
  assert found > 20


@pytest.mark.parametrize("method", METHODS)
def test_a_permutation_of_the_classes_permutes_the_groups(method):
  counts, groups = planted(3)
  order = np.random.default_rng(1).permutation(len(counts))
  place = np.argsort(order)
  want = tuple(tuple(sorted(int(place[index]) for index in group)) for group in groups)
  assert Discovery(method, 0.05)(counts[np.ix_(order, order)]) == want


def pairs_of(chain, weak=0.0):
  """Counts of six classes: 0-1-2 and 3-4-5 are confused alike, 2-3 by `weak`."""
  shares = np.zeros((6, 6))
  for i, j in chain:
    shares[i, j] = shares[j, i] = 0.2
  shares[2, 3] = shares[3, 2] = weak
  np.fill_diagonal(shares, 1 - shares.sum(1))
  return np.round(1e6 * shares).astype(np.int64)


def test_components_chain_and_the_others_cut_where_it_is_weak():
  triangles = [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)]
  counts = pairs_of(triangles, weak=0.11)
  assert Discovery("components", 0.1)(counts) == ((0, 1, 2, 3, 4, 5),)
  for method in ("hierarchical", "spectral"):
    assert Discovery(method, 0.1)(counts) == ((0, 1, 2), (3, 4, 5))


@pytest.mark.parametrize("method", METHODS)
def test_without_confusion_there_are_no_groups(method):
  assert Discovery(method)(np.diag([5, 6, 7])) == ()
  assert Discovery(method)(np.zeros((4, 4), int)) == ()
  assert Discovery(method, 1.0)(np.array([[0, 9], [4, 0]])) == ((0, 1),)


@pytest.mark.parametrize("method", METHODS)
def test_both_directions_count(method):
  """A class that is always taken for another one is similar to it by a half, whichever is the truth."""
  counts = np.array([[100, 0, 0], [100, 0, 0], [0, 0, 100]])
  assert Discovery(method, 0.5)(counts) == ((0, 1),)
  assert Discovery(method, 0.51)(counts) == ()


def test_the_subnets_matrix_sums_pixels_outside():
  counts = np.arange(25).reshape(5, 5)
  out = aggregated(counts, (3, 1))
  rest = [0, 2, 4]
  assert out.dtype == counts.dtype
  assert out.sum() == counts.sum()
  assert out[0, 0] == counts[np.ix_(rest, rest)].sum()
  assert (out[1, 1], out[1, 2]) == (counts[3, 3], counts[3, 1])
  assert out[2, 0] == counts[1, rest].sum()
  assert out[0, 1] == counts[rest, 3].sum()
  assert aggregated(counts, range(5))[0].sum() == 0  # nothing is outside


def test_confusion_inside_and_across_is_all_there_is():
  counts, groups = planted(0)
  inside, across = inside_and_across(counts, groups)
  assert sum(inside) + across == pytest.approx(off_diagonal(counts).sum())
  i, j = groups[1][:2]
  pair = row_normalised(counts)[[i, j], [j, i]].sum()
  assert inside_and_across(counts, ((i, j),))[0] == [pytest.approx(pair)]
  assert inside_and_across(counts, ()) == ([], pytest.approx(off_diagonal(counts).sum()))


@pytest.mark.parametrize(
  ("counts", "words"),
  [
    (np.ones((3, 4)), "3x4"),
    (np.ones(3), "square"),
    (np.zeros((0, 0)), "square"),
    (np.ones((4, 4)), "3 classes"),
    (np.array([[1, 2, 3], [np.nan] * 3, [1, 2, 3]]), "row of 0"),
    (np.array([[1, 2, -3], [1, 2, 3], [1, 2, 3]]), "negative"),
    ([["a", "b"], ["c", "d"]], "numbers"),
  ],
)
def test_a_matrix_that_is_none_is_refused(counts, words):
  with pytest.raises(UserError, match=words):
    checked_counts(counts, 3)


@pytest.mark.parametrize(
  ("section", "words"),
  [
    ({"method": "kmeans"}, "hierarchical"),
    ({"threshold": 0.0}, "above 0"),
    ({"threshold": float("nan")}, "above 0"),
    ({"max_groups": 0}, "at least 1"),
  ],
)
def test_settings_that_mean_nothing_are_refused(section, words):
  with pytest.raises(UserError, match=words):
    Discovery(**section)


def test_the_published_groups_are_cityscapes_classes():
  groups = resolve("cityscapes", INFO.classes)
  assert groups == ((2, 3, 4, 5, 6, 7), (13, 14, 15, 16), (11, 12, 17, 18))
  assert resolve(("cityscapes",), INFO.classes) == resolve(PUBLISHED["cityscapes"], INFO.classes) == groups
  counts = np.ones((19, 19), int)
  assert [aggregated(counts, group).shape for group in groups] == [(7, 7), (5, 5), (5, 5)]


@pytest.mark.parametrize(
  ("groups", "words"),
  [
    ((("car", "truk"),), "group 1: 'truk' is no class of this data set; did you mean 'truck'"),
    ((("car", "zzz"),), "known: road, sidewalk"),
    ((("car", "bus"), ("truck", "car")), "group 2: 'car' is named in group 1 too"),
    ((("car", "car"),), "twice"),
    ((("car", "bus"), ()), "group 2 is empty"),
    ((("car",),), "'car' alone"),
    ("cityscape", "cityscapes, voc"),
    (("car", "truck"), r"\(\('car'"),
    ("voc", "'background' is no class"),
    ((1, 2), r"\(\('car'"),
    ((("car", 3),), "group 1: 3 is no class"),
  ],
)
def test_groups_by_hand_that_cannot_be_are_refused_in_one_line(groups, words):
  with pytest.raises(UserError, match=words) as caught:
    resolve(groups, INFO.classes)
  assert "\n" not in str(caught.value)


def test_an_index_that_is_no_class_is_refused():
  for group in ((0, 3), (-1, 0)):
    with pytest.raises(UserError, match=r"classes are 0\.\.2"):
      aggregated(np.eye(3, dtype=int), group)
