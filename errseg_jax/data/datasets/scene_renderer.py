"""Paints parts into an image and a label map, and degrades the image as a camera does."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import cv2
import numpy as np

from errseg_jax.data.datasets.scene_parts import UNLABELLED, Part
from errseg_jax.structs import IGNORE

_SHIFT = 4  # OpenCV draws at 1 / 2**4 of a pixel.


@functools.lru_cache(maxsize=4)
def _textures(height: int, width: int) -> dict[str, np.ndarray]:
  """Zero-mean textures about 128 with deviation 48, uint8 [2 height, 2 width]; crops are used."""
  rng = np.random.default_rng(0)
  shape = (2 * height, 2 * width)
  rows, columns = np.indices(shape, np.float32) / height

  def noise(size: float) -> np.ndarray:
    field = rng.standard_normal(shape).astype(np.float32)
    return _unit(cv2.GaussianBlur(field, (0, 0), max(size * height, 0.3)))

  bricks = np.sin(rows * 150) + 0.6 * np.sign(np.sin(columns * 60 + 3 * np.floor(rows * 24)))
  fields = {
    "grain": noise(0.004) + 0.5 * noise(0.05),
    "clouds": noise(0.1) + 0.3 * noise(0.01),
    "leaves": noise(0.012) + 0.6 * noise(0.04),
    "bricks": _unit(bricks) + 0.7 * noise(0.02),
    "stripes": _unit(np.sin(columns * 90 + noise(0.2))) + 0.7 * noise(0.03),
    "ripples": cv2.blur(noise(0.006), (max(height // 12, 1), 1)) * 2 + 0.4 * noise(0.1),
    "noise": noise(0.0),
  }
  return {name: np.clip(128 + 48 * _unit(field), 0, 255).astype(np.uint8) for name, field in fields.items()}


def _unit(field: np.ndarray) -> np.ndarray:
  return (field - field.mean()) / field.std()


def _crop(name: str, size: tuple[int, int], like: np.ndarray, rng: np.random.Generator):
  texture = _textures(*like.shape[:2])[name]
  row, column = (int(rng.integers(t - s + 1)) for t, s in zip(texture.shape, size, strict=True))
  return texture[row : row + size[0], column : column + size[1]]


def render(
  parts: Iterable[Part], height: int, width: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """Paints parts in their order.

  Returns:
    uint8 [height, width, 3] RGB, and uint8 [height, width] with 255 where nothing was painted.
  """
  image = np.zeros((height, width, 3), np.uint8)
  label = np.full((height, width), IGNORE, np.uint8)
  for part in parts:
    points = [np.rint(shape * (height << _SHIFT)).astype(np.int32) for shape in part.shapes]
    _paint_label(label, part, points)
    if part.alpha > 0:
      _paint_image(image, part, points, rng)
  return image, label


def _stroke(part: Part, height: int) -> int:
  return max(1, round(part.width * height))


def _draw(canvas: np.ndarray, part: Part, points: list[np.ndarray], value, height: int, line: int):
  if part.width > 0:
    cv2.polylines(canvas, points, False, value, _stroke(part, height), line, _SHIFT)
  else:
    cv2.fillPoly(canvas, points, value, line, _SHIFT)


def _paint_label(label: np.ndarray, part: Part, points: list[np.ndarray]) -> None:
  if part.label == UNLABELLED:
    return
  height = label.shape[0]
  _draw(label, part, points, part.label, height, cv2.LINE_8)
  if part.ring:
    cv2.polylines(label, points, True, IGNORE, max(1, height // 120), cv2.LINE_8, _SHIFT)


def _paint_image(image: np.ndarray, part: Part, points: list[np.ndarray], rng: np.random.Generator) -> None:
  height = image.shape[0]
  # A stroke thinner than a pixel covers only a share of it.
  alpha = part.alpha * (min(1.0, part.width * height) if part.width > 0 else 1.0)
  if alpha == 1.0 and not part.texture:
    _draw(image, part, points, part.colour.tolist(), height, cv2.LINE_AA)
    return
  margin = 2 + int(2 * part.soft * height) + (_stroke(part, height) if part.width > 0 else 0)
  low = np.min([p.min(axis=0) for p in points], axis=0) // (1 << _SHIFT) - margin
  high = np.max([p.max(axis=0) for p in points], axis=0) // (1 << _SHIFT) + margin
  left, top = np.maximum(low, 0).tolist()
  right, bottom = np.minimum(high, image.shape[1::-1]).tolist()
  if left >= right or top >= bottom:
    return
  mask = np.zeros((bottom - top, right - left), np.uint8)
  origin = np.array([left << _SHIFT, top << _SHIFT], np.int32)
  _draw(mask, part, [p - origin for p in points], 255, height, cv2.LINE_AA)
  if part.soft > 0:
    mask = cv2.GaussianBlur(mask, (0, 0), max(0.5 * part.soft * height, 0.3))
  weight = mask * np.float32(alpha / 255)
  window = image[top:bottom, left:right]
  fill = _fill(part, mask.shape, image, rng)
  window[:] = cv2.blendLinear(fill, window, weight, 1 - weight)


def _fill(part: Part, size: tuple[int, int], image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """uint8 [*size, 3]: the part's colour with its texture on top."""
  if not part.texture:
    return np.full((*size, 3), part.colour, np.uint8)
  gain = np.full(3, part.contrast / 48)
  pattern = _crop(part.texture, size, image, rng)
  return cv2.transform(pattern, np.column_stack([gain, part.colour - 128 * gain]))


def degrade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Uneven light, colour cast, defocus, sensor noise and JPEG, each of random strength."""
  size = image.shape[:2]
  light = _crop("clouds", (size[0] // 4, size[1] // 4), image, rng)
  light = cv2.resize(light, size[::-1])
  strength, exposure = rng.uniform(0.05, 0.4), rng.uniform(0.65, 1.4)
  cast = exposure * np.exp(rng.normal(0, 0.08, 3))
  field = cv2.transform(light, np.column_stack([100 * strength * cast / 128, 100 * cast * (1 - strength)]))
  image = cv2.multiply(image, field, scale=0.01)
  grey = rng.uniform(0.0, 0.6)
  mix = (1 - grey) * np.eye(3) + grey / 3
  image = cv2.transform(image, mix)
  if rng.random() < 0.6:
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.2, 0.9) * max(size[0] / 160, 0.6))
  grain = rng.uniform(1.0, 9.0) / 48
  noise = [_crop("noise", size, image, rng) for _ in range(3)]
  image = cv2.addWeighted(image, 1.0, cv2.merge(noise), grain, -128 * grain)
  if rng.random() < 0.5:
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 90))]
    _, encoded = cv2.imencode(".jpg", image, quality)
    image = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
  return image
