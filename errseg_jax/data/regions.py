"""Connected regions of one value in a map."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from scipy import ndimage


@dataclasses.dataclass(frozen=True)
class Region:
  """One connected region.

  Attributes:
    value: of the map in it.
    box: its rows and columns, as slices of the map.
    mask: bool, of the box's shape; the region's own pixels.
    pixels: their number.
  """

  value: int
  box: tuple[slice, slice]
  mask: np.ndarray
  pixels: int


def regions(values: np.ndarray, background: int, min_pixels: int = 1) -> Iterator[Region]:
  """The 4-connected regions of equal value, in ascending order of value and then from the top.

  Args:
    values: integer [H, W].
    background: a value that makes no regions.
    min_pixels: smaller regions are left out.
  """
  found, dense = np.unique(values, return_inverse=True)
  # One value at a time, within the value's own box: the cost is the area of the boxes, not H W for each value.
  for value, outer in zip(found, ndimage.find_objects(dense.reshape(values.shape) + 1), strict=True):
    if value == background:
      continue
    numbered, _ = ndimage.label(values[outer] == value)
    sizes = np.bincount(numbered.ravel())
    boxes = ndimage.find_objects(numbered)
    for number in np.flatnonzero(sizes[1:] >= min_pixels) + 1:
      inner = boxes[number - 1]
      top, left = (part.start + offset.start for part, offset in zip(outer, inner, strict=True))
      mask = numbered[inner] == number
      box = slice(top, top + mask.shape[0]), slice(left, left + mask.shape[1])
      yield Region(int(value), box, mask, int(sizes[number]))
