"""A few images of the run's own data set, to try the page with."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from errseg_jax import assemble
from errseg_jax.data.images import read_image
from errseg_jax.errors import UserError

COUNT = 8
THUMBNAIL = 160  # pixels of the longer side


@dataclasses.dataclass(frozen=True)
class Example:
  """One image of a source.

  Attributes:
    name: of the sample.
    thumbnail: a small JPEG.
    source: where it comes from.
    index: its place there.
  """

  name: str
  thumbnail: bytes
  source: Any
  index: int

  def png(self) -> bytes:
    """The whole image.

    Raises:
      UserError: it cannot be read any more.
    """
    buffer = io.BytesIO()
    Image.fromarray(_read(self.source, self.index)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def find_examples(config: ConfigDict) -> list[Example]:
  """Images spread over the reported split; none where the data set is not there."""
  try:
    source = assemble.dataset(config).source(config.splits.val)
    places = np.unique(np.linspace(0, len(source) - 1, COUNT).round().astype(int))
    return [Example(source.names[i], _thumbnail(_read(source, i)), source, i) for i in places.tolist()]
  except (UserError, OSError):
    return []


def _read(source: Any, index: int) -> np.ndarray:
  """The image as its file is, where it has one: samples may be smaller (`data.downscale`)."""
  return read_image(source.images[index]) if hasattr(source, "images") else source[index]["image"]


def _thumbnail(image: np.ndarray) -> bytes:
  picture, buffer = Image.fromarray(image), io.BytesIO()
  picture.thumbnail((THUMBNAIL, THUMBNAIL))
  picture.save(buffer, "JPEG", quality=85)
  return buffer.getvalue()
