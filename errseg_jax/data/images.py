"""Reading and writing image and label files."""

from __future__ import annotations

import io
import os
import pathlib
import re
import struct
import tempfile
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

from errseg_jax.errors import BadFile
from errseg_jax.structs import IGNORE

Path = str | os.PathLike[str]
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
_WIDE_MODES = ("I;16", "I;16L", "I;16B", "I", "F")
_TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation
# What Pillow raises at damaged files, their EXIF blocks included.
DAMAGED = (
  OSError,
  SyntaxError,
  ValueError,
  TypeError,
  LookupError,
  AttributeError,
  OverflowError,
  struct.error,
  Image.DecompressionBombError,
)
_IGNORE_COLOUR = (224, 224, 192)


def _load(
  path: Path, content: bytes | None = None, formats: tuple[str, ...] | None = None
) -> tuple[Image.Image, int]:
  """The decoded image, and how many bits a channel its file has."""
  # OpenCV fills the missing part of a truncated JPEG with grey and reports success; Pillow raises.
  try:
    with Image.open(path if content is None else io.BytesIO(content), formats=formats) as image:
      bits = _bits(image)
      image.load()
  except FileNotFoundError:
    raise BadFile("unpaired", f"{path}: no such file; check the path or list it comes from") from None
  except DAMAGED as error:
    reason = " ".join(str(error).split())
    raise BadFile(
      "undecodable",
      f"{path}: cannot be decoded, it is truncated or not an image ({reason}); replace the file",
    ) from None
  return image, bits


def _bits(image: Image.Image) -> int:
  """Bits a channel, of an image that is not decoded yet: Pillow makes 8 of 16, 4 and 2 in silence."""
  if image.mode in _WIDE_MODES:
    return 32 if image.mode == "F" else 16
  modes = " ".join(str(part[3]) for part in getattr(image, "tile", ()))  # raw modes, such as RGB;16B and L;4
  found = re.search(r"[A-Z];(2|4|12|14|16)", modes)
  return int(found[1]) if found else 8


def read_image(path: Path) -> np.ndarray:
  """Reads an image upright (its EXIF orientation applied).

  Args:
    path: a file in any 8-bit format that Pillow decodes.

  Returns:
    uint8 [H, W, 3], RGB.

  Raises:
    UserError: the file is missing, truncated, not an image, or has more than 8 bits a channel.
  """
  return _upright(path, *_load(path))


def decode_image(content: bytes, name: str, formats: tuple[str, ...] | None = None) -> np.ndarray:
  """`read_image` of a file's bytes; `name` stands in messages, `formats` are Pillow's that are taken, None all."""
  return _upright(name, *_load(name, content, formats))


def plain(content: bytes) -> bool:
  """Whether all decoders read an image file alike: upright RGB of 8 bits a channel, as JPEG or PNG."""
  with Image.open(io.BytesIO(content)) as image:
    kind = image.format in ("JPEG", "PNG") and image.mode == "RGB" and _bits(image) == 8
    return kind and "transparency" not in image.info and _orientation("", image) == 1


def _upright(path: Path, image: Image.Image, bits: int) -> np.ndarray:
  if bits > 8:
    raise BadFile("deep_image", f"{path}: has more than 8 bits a channel; convert it to an 8-bit RGB image")
  turn = _TURNS.get(_orientation(path, image))
  return np.asarray((image if turn is None else image.transpose(turn)).convert("RGB"))


def _orientation(path: Path, image: Image.Image) -> Any:
  """The EXIF tag; 1 is upright, and what is none of 1 to 8 means nothing."""
  try:
    return image.getexif().get(0x0112, 1)
  except DAMAGED as error:
    reason = " ".join(str(error).split())
    raise BadFile(
      "undecodable", f"{path}: its EXIF block is damaged ({reason}); take the file anew, or remove the block"
    ) from None


def read_label(path: Path) -> np.ndarray:
  """Reads a label map as it is stored: palette indices or grey values, never colours.

  Args:
    path: an image of one channel (Pillow modes 1, L, P, or 16/32-bit with values up to 255).

  Returns:
    uint8 [H, W].

  Raises:
    UserError: the file is missing, truncated, a colour mask, or has values above 255.
  """
  image, bits = _load(path)
  if image.mode in _WIDE_MODES:
    return _narrow(path, np.asarray(image))
  if image.mode not in ("1", "L", "P"):
    raise BadFile(
      "colour_mask",
      f"{path}: looks like an RGB (colour) mask, Pillow mode {image.mode}; labels must be one "
      "channel of class ids: convert the colours to ids, or save it in palette mode (P)",
    )
  stored = np.asarray(image).astype(np.uint8)
  # Grey of 2 or 4 bits is spread over 0..255 as it is decoded.
  return stored // (255 // (2**bits - 1)) if image.mode == "L" and bits < 8 else stored


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
      turned = _orientation(path, image) in (5, 6, 7, 8)
  except DAMAGED as error:
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
