"""The sizes that programs are written for, and images of each to try them on."""

from __future__ import annotations

import collections
import dataclasses
import re
from typing import Any

import cv2
import numpy as np
from ml_collections import ConfigDict

from errseg_jax import assemble
from errseg_jax.data.pipeline import bucket
from errseg_jax.errors import UserError
from errseg_jax.progress import progress_bar

MOST = 16
"""Sizes that are written without being named."""
TRIED = 2
"""Images of each size that the written programs are tried on."""

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Images:
  """Images to try programs on.

  Attributes:
    by_size: some of each padded size, uint8 [h, w, 3], unpadded.
    source: where they come from, in words.
  """

  by_size: dict[Size, list[np.ndarray]]
  source: str


def padded_size(config: ConfigDict, height: int, width: int) -> Size:
  """The size that an image is padded to."""
  return bucket(height, width, config.loader.size_multiple, config.segmenter.size_remainder)


def named(config: ConfigDict, text: str) -> Images:
  """Of "480x640,1024x2048", height first, with generated images.

  Raises:
    UserError: it is not of that form.
  """
  rng, found = np.random.default_rng(0), dict[Size, list[np.ndarray]]()
  for part in text.split(","):
    match = re.fullmatch(r"\s*([1-9]\d{0,5})x([1-9]\d{0,5})\s*", part)
    if not match:
      raise UserError(
        f"--sizes={text}: write HEIGHTxWIDTH in pixels with commas between, as 480x640,1024x2048"
      )
    height, width = int(match[1]), int(match[2])
    found.setdefault(padded_size(config, height, width), []).append(scene(rng, height, width))
  return Images({size: images[:TRIED] for size, images in found.items()}, "generated images")


def scene(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Smooth blots of colour with some noise, uint8 [height, width, 3]: regions, as images have them."""
  coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
  blots: Any = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
  return np.clip(blots + rng.normal(0, 8, blots.shape), 0, 255).astype(np.uint8)


def of_split(config: ConfigDict) -> Images:
  """Of the images of the reported split, which are all read.

  Raises:
    UserError: an image that cannot be read, or more than MOST sizes.
  """
  split = config.splits.val
  source = assemble.dataset(config).source(split)
  counts, found = collections.Counter[Size](), dict[Size, list[np.ndarray]]()
  with progress_bar(f"sizes of {split}", len(source)) as show:
    for index in range(len(source)):
      image = source[index]["image"]
      size = padded_size(config, *image.shape[:2])
      counts[size] += 1
      if counts[size] <= TRIED:
        found.setdefault(size, []).append(image)
      show(index + 1)
  if not counts:
    raise UserError(f"split {split} has no image: name the sizes, --sizes=HEIGHTxWIDTH")
  if len(counts) > MOST:
    frequent = ",".join(f"{height}x{width}" for (height, width), _ in counts.most_common(MOST))
    raise UserError(
      f"images of split {split} come to {len(counts)} sizes: name those that are wanted, --sizes={frequent} are the "
      "most frequent ones"
    )
  ordered = {size: found[size] for size, _ in counts.most_common()}
  return Images(ordered, f"split {split}")
