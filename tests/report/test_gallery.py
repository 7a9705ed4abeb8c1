import pytest

from errseg_jax.inference.image_log import Extremes, ImageScores
from errseg_jax.report.gallery import picked


def filled(changes) -> Extremes:
  """Images a, b, ... of accuracy 50, 51, ... that correction changes by so much."""
  extremes = Extremes()
  for i, change in enumerate(changes):
    extremes.add(ImageScores(chr(ord("a") + i), 50.0 + i, 50.0 + i + change, 60.0))
  return extremes


def test_half_are_the_worst_and_each_other_reason_has_a_sixth():
  chosen = picked(filled([0, 0, 0, 0, 5, -5, 0, 0, 3, -3, 0, 0]), 6)
  assert chosen == {
    "a": ("worst",),
    "b": ("worst",),
    "c": ("worst",),
    "e": ("gained",),
    "f": ("lost",),
    "l": ("best",),
  }


def test_an_image_that_nothing_changed_neither_gained_nor_lost():
  reasons = [reason for why in picked(filled([0, 0, 0, 0]), 4).values() for reason in why]
  assert {*reasons} == {"worst", "best"}


@pytest.mark.parametrize(("count", "shown"), [(1, 1), (5, 5), (9, 9), (500, 9)])
def test_as_many_as_asked_for_and_as_there_are(count, shown):
  chosen = picked(filled([0, 2, 0, -1, 0, 0, 4, 0, 0]), count)
  assert len(chosen) == shown
  assert all(chosen.values())
  assert next(iter(chosen)) == "a"


def test_not_every_image_is_worst_and_best_at_once():
  chosen = picked(filled([0] * 12), 500)
  assert sum("worst" in why and "best" in why for why in chosen.values()) == 0
