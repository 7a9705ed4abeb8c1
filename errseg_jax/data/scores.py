"""Class scores [h, w, C] of an image as one byte each: how far a class lies below the most likely one, in logits.

A code of 255 is the most likely class, 255 - 16 d one whose logit is d lower, 0 all that are 15.9 or more lower.
Between pixels codes are interpolated as the logits would be: a softmax does not see what is taken off all classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from errseg_jax.data.datasets.base import Sample

STEPS = 16  # codes for a logit of 1
TOP = 255
_CHANNELS = 4  # that OpenCV warps at a time


def encode(logits: np.ndarray) -> np.ndarray:
  """Logits [..., C], or logarithms of probabilities, as codes uint8 [..., C]."""
  below = logits - logits.max(-1, keepdims=True)
  return np.clip(np.rint(TOP + STEPS * below), 0, TOP).astype(np.uint8)


def decode(codes: jax.Array) -> jax.Array:
  """Codes [..., C] as logits, float32, the largest about 0."""
  return (codes.astype(jnp.float32) - TOP) / STEPS


def at_size(codes: np.ndarray, size: Sequence[int], align_corners: bool = False) -> np.ndarray:
  """Codes [h, w, C] resized to [H, W, C]: bilinear, or the mean over an area where they are larger.

  Args:
    codes: at any resolution.
    size: (H, W).
    align_corners: whether their corner pixels lie on the new ones, or their corners do.
  """
  if codes.shape[:2] == tuple(size):
    return codes
  if codes.shape[0] > size[0]:
    return _each(codes, lambda part: cv2.resize(part, tuple(size)[::-1], interpolation=cv2.INTER_AREA))
  return warp(codes, np.eye(2, 3), size, size, align_corners)


def warp(
  codes: np.ndarray,
  matrix: np.ndarray,
  image: Sequence[int],
  size: Sequence[int],
  align_corners: bool = False,
) -> np.ndarray:
  """Codes [h, w, C] of an image as a view of it shows them; outside of the image as at its border.

  Args:
    codes: at any resolution.
    matrix: float64 [2, 3], maps the image's (x, y) to the view's.
    image: (height, width) of the image, pixels.
    size: of the view.
    align_corners: of `at_size`.

  Returns:
    uint8 [*size, C].
  """
  own, whole = np.array(codes.shape[1::-1], np.float64), np.array(image[::-1], np.float64)
  step = (whole - 1) / np.maximum(own - 1, 1) if align_corners else whole / own
  first = np.zeros(2) if align_corners else (step - 1) / 2  # where the image has the first code
  linear = matrix[:, :2]
  onto = np.column_stack([linear * step, linear @ first + matrix[:, 2]])

  def warped(part: np.ndarray) -> np.ndarray:
    return cv2.warpAffine(
      part, onto, tuple(size)[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )

  return _each(codes, warped)


def _each(codes: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
  """An OpenCV function, of as many channels as it takes at a time."""
  starts = range(0, codes.shape[2], _CHANNELS)
  parts = [function(np.ascontiguousarray(codes[..., k : k + _CHANNELS])) for k in starts]
  return np.concatenate([part if part.ndim == 3 else part[..., None] for part in parts], -1)


def joined(sample: Sample, rng: np.random.Generator | None = None) -> Sample:
  """A sample whose scores, where it has some, are further channels of its image: uint8 [H, W, 3 + C].

  Args:
    sample: with "scores", codes at any resolution, or without.
    rng: not used; the last of a chain of augmentations gets one.
  """
  del rng
  if "scores" not in sample:
    return sample
  codes = at_size(sample["scores"], sample["image"].shape[:2])
  rest = {key: value for key, value in sample.items() if key != "scores"}
  return {**rest, "image": np.concatenate([sample["image"], codes], -1)}
