"""How often each class occurs in training labels."""

from __future__ import annotations

from typing import Any

import numpy as np

MOST = 500  # samples read; a larger source is sampled at even distances


def class_frequencies(source: Any, num_classes: int) -> np.ndarray:
  """Share of each class among the labelled pixels.

  Args:
    source: random-access samples.
    num_classes: C.

  Returns:
    float64 [C], adds up to 1; all 0 without a labelled pixel.

  Raises:
    UserError: a sample cannot be read.
  """
  counts = np.zeros(num_classes, np.int64)
  for index in np.unique(np.linspace(0, len(source) - 1, min(len(source), MOST)).round().astype(int)):
    label = source[int(index)]["label"]
    counts += np.bincount(label[label < num_classes], minlength=num_classes)
  return counts / max(counts.sum(), 1)
