import dataclasses

import numpy as np
import pytest

from errseg_jax.data.splits import Splits, folds, held_out
from errseg_jax.errors import UserError


@dataclasses.dataclass
class Frames:
  """A split of a data set: nothing but names."""

  split: str
  count: int

  def __len__(self):
    return self.count

  @property
  def names(self):
    return tuple(f"{self.split}{i}" for i in range(self.count))


@dataclasses.dataclass
class Video:
  """A data set of `count` frames to train on."""

  count: int = 100

  def source(self, split):
    return Frames(split, self.count if split == "train" else 10)


RUNS = 4


@pytest.mark.parametrize("runs", [RUNS, 0])
@pytest.mark.parametrize(("count", "number"), [(100, 3), (23, 2), (7, 3), (3, 3)])
def test_folds_are_disjoint_and_make_up_the_whole(count, number, runs):
  parts = folds(count, number, runs)
  assert len(parts) == number
  assert sorted(np.concatenate(parts)) == list(range(count))
  assert max(map(len, parts)) - min(map(len, parts)) <= RUNS


def test_a_fold_is_a_few_runs_of_neighbours_from_all_over_the_list():
  for part in folds(100, 3, RUNS):
    assert 1 + (np.diff(part) > 1).sum() == RUNS
    assert part[0] < 25
    assert part[-1] >= 75


def test_folds_of_photographs_take_every_third_image():
  assert [list(part) for part in folds(7, 3, 0)] == [[0, 3, 6], [1, 4], [2, 5]]


@pytest.mark.parametrize(("runs", "longest"), [(RUNS, 9), (0, 1)])
def test_held_out_images_lie_in_runs_or_by_themselves(runs, longest):
  """372 photographs sorted by what they show, 20 things: runs of neighbours would take half of what few things have."""
  held = held_out(372, 0.1, 0.05, runs)
  assert len(held) in (36, 37)
  parts = np.split(held, np.flatnonzero(np.diff(held) > 1) + 1)
  assert max(map(len, parts)) == longest
  if not runs:
    assert np.unique(held * 20 // 372, return_counts=True)[1].tolist() == pytest.approx([2] * 20, abs=1)


@pytest.mark.parametrize("runs", [RUNS, 0])
def test_what_is_held_out_for_two_purposes_is_apart(runs):
  sources = Splits(error_source="holdout", runs=runs).sources(Video())
  names = {key: set(sources[key].names) for key in ("semantic", "branches", "choose")}
  assert not names["semantic"] & names["choose"]
  assert not names["branches"] & names["choose"]
  assert not names["semantic"] & names["branches"]
  assert len(names["choose"]) == pytest.approx(10, abs=2)
  assert len(names["branches"]) == pytest.approx(25, abs=5)


def test_a_negative_number_of_runs_is_refused():
  with pytest.raises(UserError, match=r"splits\.runs=-1"):
    Splits(runs=-1).sources(Video())


def test_every_training_image_is_in_one_fold_and_not_in_what_trains_without_it():
  sources = Splits(error_source="crossfit").sources(Video())
  assert set(sources) == {"semantic", "branches", "choose"} | {
    f"{kind}fold{k}" for k in range(3) for kind in ("", "without_")
  }
  everything = set(sources["semantic"].names)
  assert len(everything) == 88
  assert not everything & set(sources["choose"].names)
  for k in range(3):
    fold, rest = (set(sources[f"{kind}fold{k}"].names) for kind in ("", "without_"))
    assert fold
    assert not fold & rest
    assert fold | rest == everything
  assert sorted(n for k in range(3) for n in sources[f"fold{k}"].names) == sorted(everything)


@pytest.mark.parametrize("number", [1, 0, 89])
def test_folds_that_cannot_be_are_refused(number):
  with pytest.raises(UserError, match=rf"splits\.folds={number} .* the 88 images"):
    Splits(error_source="crossfit", folds=number).sources(Video())


def test_strong_errors_are_of_the_images_that_train_the_network():
  sources = Splits(error_source="strong").sources(Video())
  assert sources["branches"].names == sources["semantic"].names
  with pytest.raises(UserError, match=r"splits\.strength=0 must be above 0"):
    Splits(error_source="strong", strength=0).sources(Video())


def test_other_error_sources_have_no_folds():
  assert set(Splits(folds=0).sources(Video())) == {"semantic", "branches", "choose"}
