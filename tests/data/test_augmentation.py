"""What any chain of transforms keeps, whatever it is made of."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errseg_jax.data.augmentations import Chain
from errseg_jax.data.copy_paste import copy_paste
from errseg_jax.data.pipeline import train_batches
from errseg_jax.data.transforms import TrainTransform
from errseg_jax.errors import UserError

SIZE = (40, 56)
VALUES = (0, 3, 7, 255)


class Coordinates:
  """Images whose colours say which pixel of which sample they are; classes in blocks."""

  def __init__(self, count=6, classes=VALUES):
    self.names = tuple(f"sample{i}" for i in range(count))
    self.classes = classes

  def __len__(self):
    return len(self.names)

  def __getitem__(self, index):
    rows, columns = np.indices(SIZE)
    image = np.stack([rows * 4 + 20, columns * 4 + 20, np.full(SIZE, 20 + 30 * index)], -1).astype(np.uint8)
    return {"image": image, "label": self.label(image), "name": self.names[index]}

  def label(self, image):
    """Class by place alone, so that a view's label can be told from its image."""
    rows, columns = (image[..., 0].astype(int) - 20) // 4, (image[..., 1].astype(int) - 20) // 4
    return np.array(self.classes, np.uint8)[(rows // 13 + columns // 13) % len(self.classes)]


TRANSFORMS = st.builds(
  TrainTransform,
  crop_size=st.tuples(st.integers(8, 60), st.integers(8, 60)),
  scale_min=st.sampled_from([0.5, 1.0]),
  scale_max=st.sampled_from([1.0, 2.0]),
  rotation=st.sampled_from([0.0, 10.0, 45.0]),
  flip=st.booleans(),
  photometric=st.sampled_from([0.0, 1.0]),
  blur=st.sampled_from([0.0, 2.0]),
  noise=st.sampled_from([0.0, 10.0]),
  max_class_share=st.sampled_from([0.5, 1.0]),
  cutout=st.sampled_from([0.0, 0.4]),
)


def chain(transform, pasted, source):
  return Chain((copy_paste(source, 8, 0.9), transform)) if pasted else transform


@settings(max_examples=80, deadline=None)
@given(TRANSFORMS, st.booleans(), st.integers(0, 2**32), st.integers(0, 5))
def test_a_view_has_no_new_label_and_follows_from_its_seed(transform, pasted, seed, index):
  source = Coordinates()
  whole = chain(transform, pasted, source)
  view, again = (whole(source[index], np.random.default_rng(seed)) for _ in range(2))
  assert {*np.unique(view["label"])} <= {*VALUES}
  assert view["image"].shape == (*transform.crop_size, 3)
  assert view["label"].shape == transform.crop_size
  for key in ("image", "label"):
    assert view[key].dtype == np.uint8
    np.testing.assert_array_equal(view[key], again[key])


@settings(max_examples=60, deadline=None)
@given(
  st.tuples(st.integers(8, 60), st.integers(8, 60)),
  st.booleans(),
  st.sampled_from([0.0, 0.4]),
  st.integers(0, 2**32),
)
def test_image_and_label_stay_aligned(crop, pasted, cutout, seed):
  """Unscaled and unturned every pixel's colour says where it comes from, so what its label must be."""
  transform = TrainTransform(
    crop, 1.0, 1.0, rotation=0.0, photometric=0.0, cutout=cutout, pad_value=(0, 0, 0)
  )
  source = Coordinates()
  view = chain(transform, pasted, source)(source[2], np.random.default_rng(seed))
  inside = view["image"].any(-1)
  np.testing.assert_array_equal(view["label"][~inside], 255)
  np.testing.assert_array_equal(view["label"][inside], source.label(view["image"])[inside])


def test_the_rarer_a_class_the_more_often_it_is_pasted():
  class Rare(Coordinates):
    def __getitem__(self, index):
      sample = super().__getitem__(index)
      label = np.where(sample["label"] == 7, 7 if index == 4 else 0, sample["label"])
      return sample | {"label": label.astype(np.uint8)}

  source = Rare()
  paste = copy_paste(source, 8, 1.0)
  assert paste.donors[7] == (4,)
  assert paste.chances[7] == pytest.approx(6 * paste.chances[0])
  assert paste.chances[1] == 0
  rng, grown = np.random.default_rng(0), 0
  for _ in range(40):
    pasted = paste(source[0], rng)
    grown += (pasted["label"] == 7).any()
    where = (pasted["image"] != source[0]["image"]).any(-1)
    np.testing.assert_array_equal(pasted["label"][~where], source[0]["label"][~where])
  assert grown > 20


def test_nothing_to_paste_or_no_probability_is_told():
  with pytest.raises(UserError, match="no training image shows"):
    copy_paste(Coordinates(classes=(255,)), 8, 0.5)
  with pytest.raises(UserError, match="must be 0"):
    copy_paste(Coordinates(), 8, 1.5)


def test_a_step_is_the_same_from_wherever_training_starts():
  source = Coordinates()
  transform = chain(TrainTransform((32, 32), cutout=0.3), True, source)
  options = {"batch_size": 2, "seed": 5, "stop": 9, "threads": 2}
  whole = list(train_batches([source], [transform], start=0, **options))
  late = list(train_batches([source], [transform], start=6, **options))
  for want, got in zip(whole[6:], late, strict=True):
    np.testing.assert_array_equal(got["image"], want["image"])
    np.testing.assert_array_equal(got["label"], want["label"])
  assert (whole[0]["image"] != whole[3]["image"]).any()  # another epoch, another view
