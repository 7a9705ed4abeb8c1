"""What an upload may be, checked before anything of it is decoded."""

from __future__ import annotations

import dataclasses
import io
import warnings

import numpy as np
from PIL import Image

from errseg_jax.data.images import DAMAGED, decode_image
from errseg_jax.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""Pillow's decoders that an upload may reach: of the others some are hardly tested, and one starts a program."""
MAX_SIDE = 8192  # a strip of 1 x 4000000 pixels is few pixels, and many once it is padded


class Refused(UserError):
  """An upload that is not taken.

  Attributes:
    status: of the HTTP answer.
  """

  def __init__(self, status: int, message: str):
    super().__init__(message)
    self.status = status


@dataclasses.dataclass(frozen=True)
class Limits:
  """How large an upload may be.

  Attributes:
    megabytes: of the file, 10^6 bytes.
    megapixels: of the image, 10^6 pixels.
  """

  megabytes: int = 20
  megapixels: int = 4

  @property
  def max_bytes(self) -> int:
    """Of the file."""
    return self.megabytes * 10**6

  def check_bytes(self, size: int) -> None:
    """Of a file as far as it has come.

    Raises:
      Refused: it is too large.
    """
    if size > self.max_bytes:
      raise Refused(413, f"the file has more than {self.megabytes} MB, the limit (--limit): shrink the image")

  def check_size(self, height: int, width: int) -> None:
    """Of an image, by its header.

    Raises:
      Refused: it has too many pixels.
    """
    if max(height, width) > MAX_SIDE:
      raise Refused(413, f"the image is {width}x{height}: a side has at most {MAX_SIDE} pixels; shrink it")
    if height * width > self.megapixels * 10**6:
      raise Refused(
        413,
        f"the image is {width}x{height}, {height * width / 1e6:.1f} megapixels; the limit (--megapixels) is "
        f"{self.megapixels}: shrink it",
      )


def read_upload(content: bytes, limits: Limits) -> np.ndarray:
  """The image of an upload, upright, as `data.images.read_image` reads files.

  Args:
    content: the bytes of a file.
    limits: that it must keep.

  Returns:
    uint8 [H, W, 3], RGB.

  Raises:
    UserError: it is no image of FORMATS, truncated, of more than 8 bits a channel, or too large.
  """
  if not content:
    raise Refused(400, "the upload is empty: send the bytes of an image file")
  limits.check_bytes(len(content))
  with warnings.catch_warnings():  # Pillow's go to the terminal, and tell of the file
    warnings.simplefilter("ignore")
    try:
      with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        width, height = image.size
    except Image.DecompressionBombError:
      raise Refused(413, f"the image has more than {limits.megapixels} megapixels: shrink it") from None
    except DAMAGED:
      raise Refused(400, f"this is no image, or a damaged one; taken are {', '.join(FORMATS)}") from None
    limits.check_size(height, width)
    return decode_image(content, "the image", FORMATS)
