import pickle
import time

import numpy as np
import pytest

from errseg_jax.data import datasets
from errseg_jax.errors import UserError


@pytest.fixture(scope="module")
def scenes():
  return datasets.build("scenes", num_train=150, num_choose=20, num_val=20)


def test_a_scene_is_a_function_of_seed_split_and_index(scenes):
  first = scenes.source("train")
  again = pickle.loads(pickle.dumps(first))
  _ = again[0]
  for key in ("image", "label"):
    np.testing.assert_array_equal(first[7][key], again[7][key])
  other = datasets.build("scenes", seed=1).source("train")
  assert (first[7]["image"] != other[7]["image"]).any()


def test_splits_and_indices_differ(scenes):
  images = [scenes.source(split)[i]["image"] for split in ("train", "choose", "val") for i in (0, 1)]
  assert len({image.tobytes() for image in images}) == 6
  names = [name for split in ("train", "choose", "val") for name in scenes.source(split).names]
  assert len(set(names)) == 190


def test_every_class_occurs_and_every_label_is_legal(scenes):
  source, start = scenes.source("train"), time.perf_counter()
  present = np.zeros(256, int)
  for index in range(len(source)):
    present[np.unique(source[index]["label"])] += 1
  print(f"{len(source) / (time.perf_counter() - start):.0f} scenes/s")
  classes = scenes.info.num_classes
  assert (present[:classes] >= 10).all()
  assert not present[classes:255].any()
  assert present[255] > 0


def test_riders_come_with_bicycles(scenes):
  source = scenes.source("train")
  found = [np.unique(source[i]["label"]) for i in range(60)]
  rider, bicycle = (scenes.info.classes.index(name) for name in ("rider", "bicycle"))
  with_rider = [values for values in found if rider in values]
  assert with_rider
  # A bicycle may be hidden or out of the frame.
  assert np.mean([bicycle in values for values in with_rider]) > 0.8


def test_mean_colours_do_not_tell_the_classes(scenes):
  source, best = scenes.source("train"), []
  means = {name: [] for name in ("road", "pavement", "water")}
  for index in range(60):
    sample = source[index]
    for name, values in means.items():
      mask = sample["label"] == scenes.info.classes.index(name)
      if mask.any():
        values.append(sample["image"][mask].mean())
  for name, values in means.items():
    others = np.concatenate([means[other] for other in means if other != name])
    best.append(abs(np.mean(values) - others.mean()) / (np.std(values) + others.std()))
  assert max(best) < 1.0


@pytest.mark.parametrize("size", [(32, 96), (96, 64), (200, 400)])
def test_scenes_are_drawn_at_the_size_asked_for(size):
  dataset = datasets.build("scenes", num_val=2, height=size[0], width=size[1])
  sample = dataset.source("val")[1]
  assert sample["image"].shape == (*size, 3)
  assert sample["label"].shape == size


def test_bad_settings_are_explained():
  with pytest.raises(UserError, match="train, choose, val"):
    datasets.build("scenes").source("test")
  with pytest.raises(UserError, match="num_val"):
    datasets.build("scenes", num_val=0).source("val")
  with pytest.raises(UserError, match="at least 32"):
    datasets.build("scenes", height=8).source("val")
