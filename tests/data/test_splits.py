import dataclasses

import numpy as np
import pytest

from errseg_jax.data.splits import BLOCKS, Splits, folds
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


@pytest.mark.parametrize(("count", "number"), [(100, 3), (23, 2), (7, 3), (3, 3)])
def test_folds_are_disjoint_and_make_up_the_whole(count, number):
  parts = folds(count, number)
  assert len(parts) == number
  assert sorted(np.concatenate(parts)) == list(range(count))
  assert max(map(len, parts)) - min(map(len, parts)) <= BLOCKS


def test_a_fold_is_a_few_runs_of_neighbours_from_all_over_the_list():
  for part in folds(100, 3):
    assert 1 + (np.diff(part) > 1).sum() == BLOCKS
    assert part[0] < 25
    assert part[-1] >= 75


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
