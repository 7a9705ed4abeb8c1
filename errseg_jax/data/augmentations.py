"""Augmentations, each a callable (sample, generator) -> sample that grain maps over samples as a random transform.

The same state of the generator gives the same view. Labels move by nearest neighbour, so no new value comes up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np

from errseg_jax.data.datasets.base import Sample
from errseg_jax.data.scores import warp
from errseg_jax.errors import UserError
from errseg_jax.structs import IGNORE

Augmentation = Callable[[Sample, np.random.Generator], Sample]
TRIES = 10  # crops that are looked at for one without a class that is most of it
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# At strength 1: grey levels, factors 1 +- x, and degrees, as mmseg's PhotoMetricDistortion.
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = 32.0, 0.5, 0.5, 18.0


@dataclasses.dataclass(frozen=True)
class Chain:
  """Augmentations one after the other, from one generator."""

  parts: tuple[Augmentation, ...]

  def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
    for part in self.parts:
      sample = part(sample, rng)
    return sample


@dataclasses.dataclass(frozen=True)
class Crop:
  """Random scale, rotation, flip and crop in one affine map, so that pixels are interpolated once.

  Attributes:
    crop_size: (height, width) of the output, pixels.
    scale_min: smallest scale factor.
    scale_max: largest scale factor.
    scale_step: distance of the factors that are drawn.
    rotation: largest angle to either side, degrees.
    flip: mirror half of the images.
    max_class_share: a crop whose labelled pixels are of one class by more is drawn anew, up to TRIES times; 1 takes
      any.
    pad_value: RGB (0..255) outside of the image; the label there is 255.
  """

  crop_size: tuple[int, int]
  scale_min: float
  scale_max: float
  scale_step: float
  rotation: float
  flip: bool
  max_class_share: float
  pad_value: tuple[int, int, int]

  def __post_init__(self):
    if len(self.crop_size) != 2 or not all(isinstance(n, int) and n > 0 for n in self.crop_size):
      raise UserError(f"crop_size {self.crop_size} must be two positive numbers of pixels")
    if not 0 < self.scale_min <= self.scale_max or self.scale_step <= 0:
      raise UserError(
        f"scale_min {self.scale_min}, scale_max {self.scale_max}, scale_step {self.scale_step}: "
        "they must be positive, with scale_min <= scale_max"
      )
    if not 0 < self.max_class_share <= 1:
      raise UserError(f"max_class_share {self.max_class_share} must be above 0 and at most 1")

  def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
    """{"image": uint8 [*crop_size, 3], "label": uint8 [*crop_size]}; and "scores" [*crop_size, C] where it has some."""
    matrix, label = self._drawn(sample["label"], rng)
    image = _warp(sample["image"], matrix, self.crop_size, cv2.INTER_LINEAR, self.pad_value)
    if "scores" not in sample:
      return {"image": image, "label": label}
    seen = warp(sample["scores"], matrix, sample["label"].shape, self.crop_size)
    return {"image": image, "label": label, "scores": seen}

  def _drawn(self, label: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(float64 [2, 3] of `_matrix`, the label in it)."""
    for _ in range(TRIES):
      matrix = self._matrix(label.shape, rng)
      view = _warp(label, matrix, self.crop_size, cv2.INTER_NEAREST, (IGNORE,))
      if self.max_class_share == 1 or largest_share(view) <= self.max_class_share:
        break
    return matrix, view

  def _matrix(self, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """float64 [2, 3], maps the image's (x, y) to the crop's."""
    steps = int(round((self.scale_max - self.scale_min) / self.scale_step, 6))
    scale = self.scale_min + self.scale_step * rng.integers(steps + 1)
    angle = np.deg2rad(rng.uniform(-self.rotation, self.rotation))
    mirror = -1.0 if self.flip and rng.random() < 0.5 else 1.0
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cos * mirror, -sin], [sin * mirror, cos]])
    size_xy, crop_xy = np.array(size[::-1]), np.array(self.crop_size[::-1])
    # Whole-pixel offsets keep an unscaled, unrotated crop free of interpolation.
    slack = np.round(size_xy * scale) - crop_xy
    offset = np.round(rng.uniform(np.minimum(slack, 0), np.maximum(slack, 0)))
    centre = (np.round(size_xy * scale) - 1) / 2 - offset
    return np.column_stack([linear, centre - linear @ ((size_xy - 1) / 2)])


@dataclasses.dataclass(frozen=True)
class Photometric:
  """Brightness, contrast, saturation and hue, as one affine map of the RGB space.

  Attributes:
    strength: 1 is as strong as is usual; above 0.
  """

  strength: float

  def __post_init__(self):
    _not_negative("photometric", self.strength)

  def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
    brightness, contrast, saturation, hue = self.strength * rng.uniform(-1, 1, 4)
    keep = 1 + _SATURATION * saturation
    saturate = keep * np.eye(3) + (1 - keep) * np.outer(np.ones(3), _LUMA)
    # A hue shift turns colours around the grey axis.
    turn, _ = cv2.Rodrigues(np.full(3, np.deg2rad(_HUE * hue) / np.sqrt(3)))
    matrix = (1 + _CONTRAST * contrast) * saturate @ turn
    matrix = np.column_stack([matrix, np.full(3, _BRIGHTNESS * brightness)])
    return {**sample, "image": cv2.transform(sample["image"], matrix)}


@dataclasses.dataclass(frozen=True)
class Blur:
  """Gaussian blur.

  Attributes:
    sigma: largest standard deviation, pixels; above 0.
  """

  sigma: float

  def __post_init__(self):
    _not_negative("blur", self.sigma)

  def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
    # Below a twentieth of a pixel nothing changes, and OpenCV refuses 0.
    sigma = max(self.sigma * rng.random(), 0.05)
    return {**sample, "image": cv2.GaussianBlur(sample["image"], (0, 0), sigma)}


@dataclasses.dataclass(frozen=True)
class Noise:
  """Gaussian noise.

  Attributes:
    deviation: largest standard deviation, grey levels; above 0.
  """

  deviation: float

  def __post_init__(self):
    _not_negative("noise", self.deviation)

  def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
    image = sample["image"]
    grain = self.deviation * rng.random() * rng.standard_normal(image.shape, np.float32)
    return {**sample, "image": np.clip(np.round(image + grain), 0, 255).astype(np.uint8)}


@dataclasses.dataclass(frozen=True)
class Cutout:
  """A rectangle painted over and ignored (DeVries and Taylor 2017; here its label is void).

  Attributes:
    share: largest share of each side, 0..1.
    pad_value: RGB (0..255) that it is painted in.
  """

  share: float
  pad_value: tuple[int, int, int]

  def __post_init__(self):
    if not 0 <= self.share <= 1:
      raise UserError(f"cutout {self.share} must be 0 to 1")

  def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
    sides = sample["label"].shape
    rows, columns = (int(np.ceil(self.share * rng.random() * side)) for side in sides)
    top, left = (int(rng.integers(side - cut + 1)) for side, cut in zip(sides, (rows, columns), strict=True))
    image, label = sample["image"].copy(), sample["label"].copy()
    image[top : top + rows, left : left + columns] = self.pad_value
    label[top : top + rows, left : left + columns] = IGNORE
    return {**sample, "image": image, "label": label}


def _not_negative(name: str, value: float) -> None:
  if value < 0:
    raise UserError(f"{name} {value} must not be negative")


def _warp(
  array: np.ndarray,
  matrix: np.ndarray,
  size: tuple[int, int],
  interpolation: int,
  border: tuple[int, ...],
) -> np.ndarray:
  return cv2.warpAffine(
    array,
    matrix,
    size[::-1],
    flags=interpolation,
    borderMode=cv2.BORDER_CONSTANT,
    borderValue=border,
  )


def largest_share(label: np.ndarray) -> float:
  """Share of the labelled pixels that the most common class has; 0 without one."""
  counts = np.bincount(label.ravel(), minlength=IGNORE + 1)[:IGNORE]
  return float(counts.max() / max(counts.sum(), 1))
