"""Reading and writing image and label files."""

from __future__ import annotations

import io
import os
import pathlib
import tempfile
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageOps

from errseg_jax.errors import BadFile
from errseg_jax.structs import IGNORE

Path = str | os.PathLike[str]
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
_WIDE_MODES = ("I;16", "I;16L", "I;16B", "I", "F")
_IGNORE_COLOUR = (224, 224, 192)


def _load(path: Path, content: bytes | None = None) -> Image.Image:
  # OpenCV fills the missing part of a truncated JPEG with grey and reports success; Pillow raises.
  try:
    with Image.open(path if content is None else io.BytesIO(content)) as image:
      image.load()
  except FileNotFoundError:
    raise BadFile("unpaired", f"{path}: no such file; check the path or list it comes from") from None
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    reason = " ".join(str(error).split())
    raise BadFile(
      "undecodable",
      f"{path}: cannot be decoded, it is truncated or not an image ({reason}); replace the file",
    ) from None
  return image


def read_image(path: Path) -> np.ndarray:
  """Reads an image upright (its EXIF orientation applied).

  Args:
    path: a file in any 8-bit format that Pillow decodes.

  Returns:
    uint8 [H, W, 3], RGB.

  Raises:
    UserError: the file is missing, truncated, not an image, or has more than 8 bits a channel.
  """
  return _upright(path, _load(path))


def decode_image(content: bytes, name: str) -> np.ndarray:
  """`read_image` of a file's bytes; `name` stands in messages."""
  return _upright(name, _load(name, content))


def _upright(path: Path, image: Image.Image) -> np.ndarray:
  if image.mode in _WIDE_MODES:
    raise BadFile("deep_image", f"{path}: has more than 8 bits a channel; convert it to an 8-bit RGB image")
  if image.getexif().get(0x0112, 1) != 1:
    image = ImageOps.exif_transpose(image)
  return np.asarray(image.convert("RGB"))


def read_label(path: Path) -> np.ndarray:
  """Reads a label map as it is stored: palette indices or grey values, never colours.

  Args:
    path: an image of one channel (Pillow modes 1, L, P, or 16/32-bit with values up to 255).

  Returns:
    uint8 [H, W].

  Raises:
    UserError: the file is missing, truncated, a colour mask, or has values above 255.
  """
  image = _load(path)
  if image.mode in _WIDE_MODES:
    return _narrow(path, np.asarray(image))
  if image.mode not in ("1", "L", "P"):
    raise BadFile(
      "colour_mask",
      f"{path}: looks like an RGB (colour) mask, Pillow mode {image.mode}; labels must be one "
      "channel of class ids: convert the colours to ids, or save it in palette mode (P)",
    )
  return np.asarray(image).astype(np.uint8)


def _narrow(path: Path, wide: np.ndarray) -> np.ndarray:
  bad = wide[(wide < 0) | (wide > 255) | (wide != np.floor(wide))]
  if bad.size:
    raise BadFile(
      "deep_label",
      f"{path}: label value {bad.flat[0]} does not fit in 0..255; it looks like an instance or "
      "depth map: convert it to class ids in 8 bits",
    )
  return wide.astype(np.uint8)


def write_png(path: Path, array: np.ndarray) -> None:
  """Writes uint8 [H, W] (grey) or [H, W, 3] (RGB) to a PNG, atomically."""
  _write(path, Image.fromarray(array))


def write_label_png(path: Path, labels: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> None:
  """Writes a label map as a palette PNG, atomically: viewers show colours, readers get ids.

  Args:
    path: the file to write.
    labels: uint8 [H, W], class ids and 255 = ignore.
    palette: one RGB colour (0..255) per class.
  """
  _write(path, _with_palette(labels, palette))


def palette_png(labels: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> bytes:
  """The bytes that `write_label_png` writes."""
  buffer = io.BytesIO()
  _with_palette(labels, palette).save(buffer, format="PNG")
  return buffer.getvalue()


def _with_palette(labels: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> Image.Image:
  colours = np.zeros((256, 3), np.uint8)
  colours[IGNORE] = _IGNORE_COLOUR
  colours[: len(palette)] = palette
  image = Image.fromarray(labels)
  image.putpalette(colours.tobytes())
  return image


def image_size(path: Path) -> tuple[int, int]:
  """(height, width) of an image as `read_image` gives it, from its header.

  Raises:
    UserError: it is missing or not an image.
  """
  try:
    with Image.open(path) as image:
      width, height = image.size
      turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise BadFile("undecodable", f"{path}: is not an image ({' '.join(str(error).split())})") from None
  return (width, height) if turned else (height, width)


def _write(path: Path, image: Image.Image) -> None:
  """Saves to a temporary file beside `path` and renames it, so no reader sees half a file."""
  path = pathlib.Path(path)
  handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
  try:
    with os.fdopen(handle, "wb") as file:
      image.save(file, format="PNG")
    # mkstemp makes the file private to its owner, unlike every other output of a run.
    os.chmod(partial, 0o644)
    os.replace(partial, path)
  except BaseException:
    os.unlink(partial)
    raise


def shrink_image(image: np.ndarray, factor: int) -> np.ndarray:
  """uint8 [H, W, 3] by area mean, `factor` times smaller in height and width, rounded down."""
  if factor == 1:
    return image
  height, width = (max(1, n // factor) for n in image.shape[:2])
  return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
