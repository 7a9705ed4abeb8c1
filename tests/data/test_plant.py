import numpy as np
import pytest

from errseg_jax.data.plant import PlantedSource, struck
from errseg_jax.data.regions import regions


class Samples:
  """Blocks of 8x8 pixels of random classes, an ignored row."""

  names = tuple(f"sample{i}" for i in range(40))

  def __len__(self):
    return len(self.names)

  def __getitem__(self, index):
    label = np.kron(np.random.default_rng(index).integers(0, 4, (3, 5)), np.ones((8, 8))).astype(np.uint8)
    label[0] = 255
    return {"image": np.zeros((*label.shape, 3), np.uint8), "label": label, "name": self.names[index]}


def test_regions_are_connected_parts_of_one_value():
  values = np.array([[1, 1, 0, 1], [9, 1, 0, 1], [2, 9, 1, 9]])
  found = [(r.value, r.box[0].start, r.box[1].start, r.pixels) for r in regions(values, background=9)]
  assert found == [(0, 0, 2, 2), (1, 0, 0, 3), (1, 0, 3, 2), (1, 2, 2, 1), (2, 2, 0, 1)]
  corner = next(r for r in regions(values, 9) if r.pixels == 3)
  np.testing.assert_array_equal(corner.mask, [[True, True], [False, True]])
  assert [r.pixels for r in regions(values, 9, min_pixels=3)] == [3]
  ring = np.array([[1, 1, 1], [1, 9, 9], [1, 9, 1]])  # the last 1 lies in the box of the others
  assert [r.mask.sum() for r in regions(ring, 9)] == [5, 1]
  assert not list(regions(np.full((2, 2), 9), 9))


def test_planting_follows_from_seed_and_index_alone():
  source = PlantedSource(Samples(), share=0.3, min_pixels=10, seed=5)
  forwards = [source[i]["label"] for i in range(len(source))]
  backwards = [source[i]["label"] for i in reversed(range(len(source)))][::-1]
  np.testing.assert_array_equal(forwards, backwards)
  other = PlantedSource(Samples(), share=0.3, min_pixels=10, seed=6)
  assert any((other[i]["label"] != forwards[i]).any() for i in range(len(source)))
  clean = Samples()[0]["label"]
  assert any((source.plant(clean, i)[1] != source.plant(clean, 0)[1]).any() for i in range(len(source)))
  assert source.names == Samples.names


def test_a_planted_region_is_a_whole_one_of_another_class_of_the_image():
  samples, source = Samples(), PlantedSource(Samples(), share=0.3, min_pixels=10)
  flipped = total = 0
  for i in range(len(samples)):
    clean = samples[i]["label"]
    label, numbers = source.plant(clean, i)
    np.testing.assert_array_equal(label, source[i]["label"])
    np.testing.assert_array_equal(numbers > 0, label != clean)
    assert (label[clean == 255] == 255).all()
    assert set(np.unique(label)) <= set(np.unique(clean))
    for region in regions(clean, 255):
      total += 1
      inside = numbers[region.box][region.mask]
      assert len(set(inside)) == 1
      flipped += inside[0] > 0
  assert flipped / total == pytest.approx(0.3, abs=0.08)


def test_small_regions_and_images_of_one_class_are_left_alone():
  clean = np.zeros((6, 6), np.uint8)
  assert not PlantedSource(Samples(), share=1.0, min_pixels=1).plant(clean, 0)[1].any()
  clean[:2, :2] = 1
  numbers = PlantedSource(Samples(), share=1.0, min_pixels=5).plant(clean, 0)[1]
  np.testing.assert_array_equal(numbers, clean == 0)


def test_a_find_strikes_what_most_of_it_lies_in():
  assert struck(np.array([2, 2, 2, 0, 1])) == 2
  assert struck(np.array([2, 2, 0, 0])) == 0
  assert struck(np.array([1, 1, 2, 2, 0])) == 0
  assert struck(np.array([0, 0, 0, 1])) == 0
