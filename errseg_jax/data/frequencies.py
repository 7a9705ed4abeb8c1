"""How often each class occurs in training labels."""

from __future__ import annotations

from typing import Any

import numpy as np

MOST = 500  # samples read; a larger source is sampled at even distances


def counted_indices(source: Any) -> np.ndarray:
  """Of the samples whose classes are counted, at most MOST."""
  return np.unique(np.linspace(0, len(source) - 1, min(len(source), MOST)).round().astype(int))


def class_counts(source: Any, num_classes: int) -> np.ndarray:
  """Labelled pixels of each class in each image read, int64 [N, C].

  Args:
    source: random-access samples.
    num_classes: C.

  Raises:
    UserError: a sample cannot be read.
  """
  labels = (source[int(index)]["label"] for index in counted_indices(source))
  return np.stack([np.bincount(label[label < num_classes], minlength=num_classes) for label in labels])


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
  counts = class_counts(source, num_classes).sum(0)
  return counts / max(counts.sum(), 1)
