"""Sizes that images are evaluated at."""

import numpy as np
import pytest

from errseg_jax.data.pipeline import bucket, eval_batches


@pytest.mark.parametrize(
  ("size", "multiple", "remainder", "want"),
  [
    ((1024, 2048), 32, 0, (1024, 2048)),
    ((1024, 2048), 32, 1, (1025, 2049)),  # DeepLab's and PSPNet's grid on Cityscapes
    ((1025, 2049), 32, 1, (1025, 2049)),
    ((375, 500), 512, 1, (513, 513)),
    ((1, 33), 32, 1, (1, 33)),
    ((360, 480), 32, 0, (384, 480)),
  ],
)
def test_sizes_are_multiples_plus_the_remainder(size, multiple, remainder, want):
  assert bucket(*size, multiple, remainder) == want


class Source(list):
  names = ("a", "b", "c")


def test_batches_hold_each_image_once_at_its_padded_size():
  rng, source = np.random.default_rng(0), Source()
  for name, size in zip(Source.names, [(16, 24), (9, 17), (16, 20)], strict=True):
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    source.append({"image": image, "label": rng.integers(0, 3, size, np.uint8), "name": name})
  padding = {"size_multiple": 8, "size_remainder": 1, "pad_value": (1, 2, 3)}
  batches = list(eval_batches(source, batch_size=2, threads=1, **padding))
  assert [batch["image"].shape for batch in batches] == [(2, 17, 25, 3), (2, 9, 17, 3)]
  assert [name for batch in batches for name in batch["names"]] == ["a", "c", "b"]
  for batch in batches:
    for row, name in enumerate(batch["names"]):
      sample = source[Source.names.index(name)]
      height, width = sample["label"].shape
      np.testing.assert_array_equal(batch["image"][row, :height, :width], sample["image"])
      np.testing.assert_array_equal(batch["label"][row, :height, :width], sample["label"])
      assert (batch["image"][row, height:] == (1, 2, 3)).all()
      assert (batch["label"][row, height:] == 255).all()
      assert (batch["label"][row, :, width:] == 255).all()
  assert (batches[1]["label"][1] == 255).all()  # fills the batch up
