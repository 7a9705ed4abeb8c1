"""Tiny data sets on disk."""

import numpy as np
import pytest
from PIL import Image


def _write_pair(image_path, label_path, label=None, size=(8, 10)):
  """Writes a random image and a label map (zeros unless given) and makes their folders."""
  for path in (image_path, label_path):
    path.parent.mkdir(parents=True, exist_ok=True)
  image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
  Image.fromarray(image).save(image_path)
  Image.fromarray(np.zeros(size, np.uint8) if label is None else label).save(label_path)


@pytest.fixture
def write_pair():
  return _write_pair


@pytest.fixture
def folders(tmp_path):
  """Two samples, classes 0 and 1, in the layout of `Folders`."""
  for stem in ("a", "b"):
    label = np.eye(8, 10, dtype=np.uint8)
    label[0] = 255
    _write_pair(tmp_path / f"images/train/{stem}.jpg", tmp_path / f"labels/train/{stem}.png", label)
  return tmp_path
