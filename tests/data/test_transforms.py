import dataclasses

import cv2
import numpy as np
import pytest

from errseg_jax.data.augmentations import Cutout, largest_share
from errseg_jax.data.transforms import TrainTransform, pad_to
from errseg_jax.errors import UserError


def _ramp(height=60, width=80):
  """A label that rises with x, painted into the image."""
  label = np.tile(np.arange(width, dtype=np.uint8), (height, 1))
  return {"image": np.repeat(label[..., None], 3, 2), "label": label, "name": "ramp"}


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.25, 2.0])
@pytest.mark.parametrize("rotation", [0.0, 10.0])
def test_image_and_label_stay_aligned(scale, rotation):
  transform = TrainTransform(
    (48, 48), scale_min=scale, scale_max=scale, rotation=rotation, photometric=0,
    pad_value=(0, 0, 0),
  )  # fmt: skip
  rng = np.random.default_rng(0)
  for _ in range(5):
    view = transform(_ramp(), rng)
    # Half a source pixel along the image's rim is mixed with the pad colour.
    inside = np.zeros((48, 48), bool)
    inside[3:-3, 3:-3] = cv2.erode((view["label"] != 255) * np.uint8(1), np.ones((7, 7)))[3:-3, 3:-3]
    difference = view["image"][..., 0].astype(float) - view["label"]
    assert inside.sum() > 50
    assert abs(difference[inside].mean()) < 0.3
    assert np.abs(difference[inside]).max() < 2


def test_a_plain_crop_is_exact():
  transform = TrainTransform((32, 40), scale_min=1, scale_max=1, rotation=0, photometric=0)
  view = transform(_ramp(), np.random.default_rng(0))
  np.testing.assert_array_equal(view["image"][..., 0], view["label"])
  assert (view["label"] < 80).all()


def test_outside_of_the_image_is_ignored_and_has_the_pad_colour():
  transform = TrainTransform((90, 100), scale_min=1, scale_max=1, rotation=0, photometric=0)
  view = transform(_ramp(), np.random.default_rng(0))
  assert (view["label"] == 255).sum() == 90 * 100 - 60 * 80
  assert (view["image"][view["label"] == 255] == transform.pad_value).all()


def test_every_view_has_the_crop_size():
  transform = TrainTransform((33, 71))
  rng = np.random.default_rng(0)
  for size in ((20, 20), (33, 71), (120, 50)):
    view = transform(_ramp(*size), rng)
    assert view["image"].shape == (33, 71, 3)
    assert view["label"].shape == (33, 71)
    assert view["image"].dtype == view["label"].dtype == np.uint8


def test_a_view_is_a_function_of_the_generator():
  transform = TrainTransform((32, 32))
  first, again, other = (transform(_ramp(), np.random.default_rng(s)) for s in (1, 1, 2))
  np.testing.assert_array_equal(first["image"], again["image"])
  np.testing.assert_array_equal(first["label"], again["label"])
  assert (first["image"] != other["image"]).any()


def test_colours_change_and_labels_do_not():
  plain = TrainTransform((32, 32), photometric=0)(_ramp(), np.random.default_rng(3))
  jittered = TrainTransform((32, 32), photometric=1)(_ramp(), np.random.default_rng(3))
  np.testing.assert_array_equal(plain["label"], jittered["label"])
  assert (plain["image"] != jittered["image"]).any()


def test_flips_happen_only_when_asked_for():
  rng = np.random.default_rng(0)
  for flip, expected in ((False, {True}), (True, {True, False})):
    transform = TrainTransform((60, 80), 1, 1, rotation=0, flip=flip, photometric=0)
    rising = {bool(transform(_ramp(), rng)["label"][0, 0] == 0) for _ in range(20)}
    assert rising == expected


def edges(image):
  return np.abs(np.diff(image.astype(float), axis=0)).mean()


def test_blur_smooths_and_noise_roughens_the_image_and_neither_moves_the_label():
  stripes = {
    **_ramp(),
    "image": np.tile(np.arange(60, dtype=np.uint8)[:, None, None] % 2 * 240 + 5, (1, 80, 3)),
  }
  still = {"scale_min": 1, "scale_max": 1, "rotation": 0, "photometric": 0}
  plain, blurred, noisy = (
    [TrainTransform((32, 32), **still, **own)(stripes, np.random.default_rng(s)) for s in range(8)]
    for own in ({}, {"blur": 2.0}, {"noise": 20.0})
  )
  smooth, rough = ([edges(v["image"]) for v in views] for views in (blurred, noisy))
  assert {edges(v["image"]) for v in plain} == {240.0}
  assert max(smooth) <= 240
  assert min(smooth) < 120
  for view, still_view in zip(noisy, plain, strict=True):
    # Five standard deviations: a value that wrapped around would be further off.
    change = view["image"].astype(float) - still_view["image"]
    assert np.abs(change).max() < 100
  assert len(set(rough)) == 8
  for views in (blurred, noisy):
    for view, still_view in zip(views, plain, strict=True):
      np.testing.assert_array_equal(view["label"], still_view["label"])


def test_stronger_views_are_further_from_the_image_in_every_way():
  plain = TrainTransform((128, 256), scale_min=0.5, scale_max=2.0, rotation=10.0, photometric=0.5)
  want = {
    "scale_min": 0.4,
    "scale_max": 2.5,
    "rotation": 20.0,
    "photometric": 1.5,
    "blur": 0.5,
    "noise": 12.0,
  }
  assert plain.stronger(1.0) == dataclasses.replace(plain, **want)
  half = plain.stronger(0.5)
  assert (half.scale_max, half.rotation, half.noise) == (2.25, 15.0, 6.0)


def test_settings_without_meaning_are_refused():
  for name in ("photometric", "blur", "noise"):
    with pytest.raises(UserError, match=f"{name} -1"):
      TrainTransform((32, 32), **{name: -1})
  with pytest.raises(UserError, match="scale_min"):
    TrainTransform((32, 32), scale_min=2.0, scale_max=1.0)
  with pytest.raises(UserError, match="crop_size"):
    TrainTransform((0, 32))


def test_padding_keeps_the_sample_and_ignores_the_rest():
  padded = pad_to(_ramp(), 64, 96)
  np.testing.assert_array_equal(padded["label"][:60, :80], _ramp()["label"])
  np.testing.assert_array_equal(padded["image"][:60, :80], _ramp()["image"])
  assert (padded["label"][60:] == 255).all()
  assert (padded["label"][:, 80:] == 255).all()
  assert padded["name"] == "ramp"
  with pytest.raises(ValueError, match="ramp: 80x60 does not fit"):
    pad_to(_ramp(), 59, 96)


def _halves(left=0, right=1):
  label = np.full((60, 80), left, np.uint8)
  label[:, 60:] = right
  return {"image": np.zeros((60, 80, 3), np.uint8), "label": label, "name": "halves"}


def test_crops_of_one_class_are_drawn_anew():
  still = {"scale_min": 1, "scale_max": 1, "rotation": 0, "photometric": 0}
  shares = {}
  for limit in (1.0, 0.75):
    transform = TrainTransform((30, 30), **still, max_class_share=limit)
    views = [transform(_halves(), np.random.default_rng(seed)) for seed in range(60)]
    shares[limit] = np.array([largest_share(view["label"]) for view in views])
  assert (shares[1.0] > 0.75).mean() > 0.5
  assert (shares[0.75] > 0.75).mean() < 0.2
  # Where no crop can do, any is taken.
  view = TrainTransform((30, 30), **still, max_class_share=0.75)(_halves(2, 2), np.random.default_rng(0))
  assert largest_share(view["label"]) == 1


def test_ignored_pixels_have_no_share():
  label = np.full((4, 4), 255, np.uint8)
  assert largest_share(label) == 0
  label[0, :3] = (0, 0, 1)
  assert largest_share(label) == 2 / 3


def test_what_is_cut_out_is_painted_and_ignored_and_nothing_else():
  sample, painted = _ramp(), set()
  for seed in range(20):
    view = Cutout(0.5, (1, 2, 3))(sample, np.random.default_rng(seed))
    cut = view["label"] == 255
    rows, columns = (np.flatnonzero(cut.any(axis)) for axis in (1, 0))
    assert cut.sum() == len(rows) * len(columns) <= 30 * 40
    assert (view["image"][cut] == (1, 2, 3)).all()
    np.testing.assert_array_equal(view["label"][~cut], sample["label"][~cut])
    np.testing.assert_array_equal(view["image"][~cut], sample["image"][~cut])
    painted.add((rows[0], columns[0], len(rows), len(columns)))
  assert len(painted) > 10
  assert (sample["label"] != 255).all()


@pytest.mark.parametrize("fields", [{"max_class_share": 0}, {"max_class_share": 2}, {"cutout": 1.5}])
def test_shares_are_shares(fields):
  with pytest.raises(UserError, match=next(iter(fields))):
    TrainTransform((32, 32), **fields)
