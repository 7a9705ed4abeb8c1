import math

import numpy as np
import pytest

from errseg_jax.inference import image_log
from errseg_jax.inference.image_log import Extremes, ImageScores


def make_images(count: int, seed: int = 0, expected: float | None = None) -> list[ImageScores]:
  rng = np.random.default_rng(seed)
  accuracy = rng.integers(0, 20, count) * 5.0  # many ties
  fused = np.clip(accuracy + rng.integers(-2, 3, count), 0, 100)
  return [
    ImageScores(f"image{i}", float(a), float(f), float(rng.uniform(0, 100)) if expected is None else expected)
    for i, (a, f) in enumerate(zip(accuracy, fused, strict=True))
  ]


def filled(images) -> Extremes:
  extremes = Extremes()
  for image in images:
    extremes.add(image)
  return extremes


def names(extremes: Extremes) -> dict[str, list[str]]:
  return {reason: [scores.name for scores in extremes.first(reason)] for reason in image_log.REASONS}


def test_the_extremes_are_those_of_a_sorted_list(monkeypatch):
  monkeypatch.setattr(image_log, "KEPT", 7)
  images = make_images(50)
  extremes = filled(images)
  keys = {
    "worst": lambda s: s.accuracy,
    "best": lambda s: -s.accuracy,
    "gained": lambda s: s.accuracy - s.fused,
    "lost": lambda s: s.fused - s.accuracy,
  }
  for reason, key in keys.items():
    found = extremes.first(reason)
    assert len(found) == 7
    assert [key(s) for s in found] == sorted(map(key, images))[:7]


def test_order_and_processes_do_not_matter(monkeypatch):
  monkeypatch.setattr(image_log, "KEPT", 7)
  images = make_images(50)
  merged = filled(images[::2])
  merged.merge(Extremes.of_arrays(filled(images[1::2]).arrays()))
  assert names(merged) == names(filled(images)) == names(filled(images[::-1]))


def test_without_p_ep_nothing_is_expected():
  back = Extremes.of_arrays(filled(make_images(3, expected=math.nan)).arrays())
  assert all(math.isnan(scores.expected) for scores in back.first("worst"))
  assert len(back.first("best")) == 3


@pytest.mark.parametrize("count", [0, 1])
def test_few_images_survive_the_arrays(count):
  images = make_images(count)
  assert Extremes.of_arrays(filled(images).arrays()).first("worst") == images
