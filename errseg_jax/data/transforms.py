"""Random training transform and evaluation padding, on samples in numpy and OpenCV."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from errseg_jax.data.datasets.base import Sample
from errseg_jax.errors import UserError
from errseg_jax.structs import IGNORE

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# At photometric = 1: grey levels, factors 1 +- x, and degrees, as mmseg's PhotoMetricDistortion.
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = 32.0, 0.5, 0.5, 18.0

TRIES = 10  # crops that are looked at for one without a class that is most of it


@dataclasses.dataclass(frozen=True)
class TrainTransform:
  """Random scale, rotation, flip and crop in one affine map, then random colours, blur and noise.

  Attributes:
    crop_size: (height, width) of the output, pixels.
    scale_min: smallest scale factor.
    scale_max: largest scale factor.
    scale_step: distance of the factors that are drawn.
    rotation: largest angle to either side, degrees.
    flip: mirror half of the images.
    photometric: strength of the brightness, contrast, saturation and hue jitter; 0 is none.
    blur: largest standard deviation of a Gaussian blur, pixels; 0 is none.
    noise: largest standard deviation of Gaussian noise, grey levels; 0 is none.
    max_class_share: a crop whose labelled pixels are of one class by more is drawn anew, up to TRIES times; 1 takes
      any.
    cutout: largest share of each side of a rectangle that is painted over and ignored; 0 is none.
    pad_value: RGB (0..255) outside of the image; the label there is 255. Jittered as the image is.
  """

  crop_size: tuple[int, int]
  scale_min: float = 0.5
  scale_max: float = 2.0
  scale_step: float = 0.25
  rotation: float = 10.0
  flip: bool = True
  photometric: float = 0.5
  blur: float = 0.0
  noise: float = 0.0
  max_class_share: float = 1.0
  cutout: float = 0.0
  pad_value: tuple[int, int, int] = (124, 116, 104)

  def __post_init__(self):
    if len(self.crop_size) != 2 or not all(isinstance(n, int) and n > 0 for n in self.crop_size):
      raise UserError(f"crop_size {self.crop_size} must be two positive numbers of pixels")
    if not 0 < self.scale_min <= self.scale_max or self.scale_step <= 0:
      raise UserError(
        f"scale_min {self.scale_min}, scale_max {self.scale_max}, scale_step {self.scale_step}: "
        "they must be positive, with scale_min <= scale_max"
      )
    if min(self.photometric, self.blur, self.noise) < 0:
      raise UserError(
        f"photometric {self.photometric}, blur {self.blur}, noise {self.noise} must not be negative"
      )

    if not 0 < self.max_class_share <= 1 or not 0 <= self.cutout <= 1:
      raise UserError(
        f"max_class_share {self.max_class_share} must be above 0 and at most 1, cutout {self.cutout} 0 to 1"
      )

  def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One random view of the sample; the same `rng` state gives the same view.

    Returns:
      {"image": uint8 [*crop_size, 3], "label": uint8 [*crop_size]}.
    """
    image, label = sample["image"], sample["label"]
    matrix, label = self._crop(label, rng)
    image = _warp(image, matrix, self.crop_size, cv2.INTER_LINEAR, self.pad_value)
    if self.photometric > 0:
      image = _jitter(image, self.photometric, rng)
    if self.blur > 0:
      # Below a twentieth of a pixel nothing changes, and OpenCV refuses 0.
      image = cv2.GaussianBlur(image, (0, 0), max(self.blur * rng.random(), 0.05))
    if self.noise > 0:
      grain = self.noise * rng.random() * rng.standard_normal(image.shape, np.float32)
      image = np.clip(np.round(image + grain), 0, 255).astype(np.uint8)
    view = {"image": image, "label": label}
    return cut_out(view, self.cutout, self.pad_value, rng) if self.cutout else view

  def _crop(self, label: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(float64 [2, 3] of `_matrix`, the label in it)."""
    for _ in range(TRIES):
      matrix = self._matrix(label.shape, rng)
      view = _warp(label, matrix, self.crop_size, cv2.INTER_NEAREST, (IGNORE,))
      if self.max_class_share == 1 or largest_share(view) <= self.max_class_share:
        break
    return matrix, view

  def stronger(self, strength: float) -> TrainTransform:
    """Views that a network trained on this one's does not know, so that it errs on images it has learnt.

    Args:
      strength: s > 0. Scales reach 1 + s / 4 further to both sides, rotation 10 s degrees further; colours change
        by s more; a blur of up to s / 256 of the crop's shorter side and noise of up to 12 s grey levels come on top.
    """
    wider = 1 + strength / 4
    return dataclasses.replace(
      self,
      scale_min=self.scale_min / wider,
      scale_max=self.scale_max * wider,
      rotation=self.rotation + 10 * strength,
      photometric=self.photometric + strength,
      blur=self.blur + strength * min(self.crop_size) / 256,
      noise=self.noise + 12 * strength,
    )

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


def _jitter(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
  """All four jitters as one affine map of the RGB space."""
  brightness, contrast, saturation, hue = strength * rng.uniform(-1, 1, 4)
  keep = 1 + _SATURATION * saturation
  saturate = keep * np.eye(3) + (1 - keep) * np.outer(np.ones(3), _LUMA)
  # A hue shift turns colours around the grey axis.
  turn, _ = cv2.Rodrigues(np.full(3, np.deg2rad(_HUE * hue) / np.sqrt(3)))
  matrix = (1 + _CONTRAST * contrast) * saturate @ turn
  return cv2.transform(image, np.column_stack([matrix, np.full(3, _BRIGHTNESS * brightness)]))


def largest_share(label: np.ndarray) -> float:
  """Share of the labelled pixels that the most common class has; 0 without one."""
  counts = np.bincount(label.ravel(), minlength=IGNORE + 1)[:IGNORE]
  return float(counts.max() / max(counts.sum(), 1))


def cut_out(
  sample: Sample, largest: float, pad_value: tuple[int, int, int], rng: np.random.Generator
) -> Sample:
  """A rectangle of up to `largest` of each side painted over and ignored (DeVries and Taylor 2017, labels void)."""
  sides = sample["label"].shape
  rows, columns = (int(np.ceil(largest * rng.random() * side)) for side in sides)
  top, left = (int(rng.integers(side - cut + 1)) for side, cut in zip(sides, (rows, columns), strict=True))
  image, label = sample["image"].copy(), sample["label"].copy()
  image[top : top + rows, left : left + columns] = pad_value
  label[top : top + rows, left : left + columns] = IGNORE
  return {**sample, "image": image, "label": label}


def pad_to(
  sample: Sample, height: int, width: int, pad_value: tuple[int, int, int] = (124, 116, 104)
) -> Sample:
  """Pads at the bottom and right to a fixed size, so that few shapes are compiled.

  Args:
    sample: image and label at most `height` x `width`; other keys are kept.
    height: rows of the output.
    width: columns of the output.
    pad_value: RGB (0..255) of the padding; the label there is 255.

  Raises:
    ValueError: the sample is larger.
  """
  rows, columns = sample["label"].shape
  if rows > height or columns > width:
    raise ValueError(f"{sample.get('name')}: {columns}x{rows} does not fit in {width}x{height}")
  image = np.empty((height, width, 3), np.uint8)
  image[:] = pad_value
  image[:rows, :columns] = sample["image"]
  label = np.full((height, width), IGNORE, np.uint8)
  label[:rows, :columns] = sample["label"]
  return {**sample, "image": image, "label": label}
