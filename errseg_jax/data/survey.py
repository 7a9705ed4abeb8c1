"""Every sample of a split read once, by several threads, and what is worth knowing of each."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
import itertools
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from PIL import Image

from errseg_jax.errors import BadFile, UserError
from errseg_jax.structs import IGNORE

AHEAD = 4  # samples that wait for each thread
_HASH = (17, 16)  # of the small grey image that the perceptual hash compares neighbours in
_FLAT = 2.0  # grey levels: below such a deviation all images look alike to the hash
_ROTATION = 0x0112  # EXIF tag; 1 is upright


@dataclasses.dataclass(frozen=True)
class Fingerprint:
  """What tells an image from others, in some hundred bytes.

  Attributes:
    path: of its file; the sample's name where there is none.
    content: hash of its pixels.
    look: 256 bits in 32 bytes, which neighbours in a small grey image are the darker ones, for images that look
      alike; None of a flat one.
  """

  path: str
  content: bytes
  look: bytes | None


@dataclasses.dataclass(frozen=True)
class Facts:
  """What one sample is.

  Attributes:
    name: in its split.
    size: (height, width).
    pixels: int64 [C], labelled pixels of each class.
    ignored: pixels labelled 255.
    colour_sum: float64 [3], of the image's RGB values.
    colour_squares: float64 [3], of their squares.
    fingerprint: of the image.
    notes: kinds of fault of the image file that training lives with.
  """

  name: str
  size: tuple[int, int]
  pixels: np.ndarray
  ignored: int
  colour_sum: np.ndarray
  colour_squares: np.ndarray
  fingerprint: Fingerprint
  notes: tuple[str, ...]


def survey(source: Any, num_classes: int, threads: int) -> Iterator[Facts | UserError]:
  """The facts of every sample in order; a bad sample's error in its place. Few samples are held at a time.

  Args:
    source: random-access samples.
    num_classes: C.
    threads: that read, at least 1.
  """

  def read(index: int) -> Facts | UserError:
    try:
      return facts(source, index, num_classes)
    except UserError as error:
      return error
    except (
      Exception
    ) as error:  # of a file that no reader knows to tell: what else was found is not lost for it
      path, reason = (getattr(source, "images", None) or source.names)[index], " ".join(str(error).split())
      return BadFile(
        "undecodable", f"{path}: cannot be read ({type(error).__name__}: {reason}); take it anew"
      )

  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    indices, waiting = iter(range(len(source))), collections.deque()  # type: ignore[var-annotated]
    for index in itertools.islice(indices, AHEAD * threads):
      waiting.append(pool.submit(read, index))
    while waiting:
      yield waiting.popleft().result()
      for index in itertools.islice(indices, 1):
        waiting.append(pool.submit(read, index))


def facts(source: Any, index: int, num_classes: int) -> Facts:
  """What sample `index` is.

  Raises:
    UserError: it cannot be used.
  """
  sample = source[index]
  image, label = sample["image"], sample["label"]
  histogram = np.bincount(label.ravel(), minlength=IGNORE + 1)
  values = image.reshape(-1, 3)
  path = (getattr(source, "images", None) or source.names)[index]
  return Facts(
    name=sample["name"],
    size=label.shape,
    pixels=histogram[:num_classes],
    ignored=int(histogram[IGNORE]),
    colour_sum=values.sum(0, dtype=np.float64),
    colour_squares=np.einsum("pc,pc->c", values, values, dtype=np.float64),
    fingerprint=Fingerprint(path, content(image), look(image)),
    notes=notes(path) if getattr(source, "images", None) else (),
  )


def content(image: np.ndarray) -> bytes:
  """A hash of the pixels and the shape of an image."""
  return hashlib.blake2b(
    np.ascontiguousarray(image).data, digest_size=16, key=str(image.shape).encode()
  ).digest()


def look(image: np.ndarray) -> bytes | None:
  """256 bits of an image [H, W, 3] that scaling and compression hardly change; None of a flat one."""
  grey = cv2.cvtColor(cv2.resize(image, _HASH, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY).astype(
    np.int16
  )
  if grey.std() < _FLAT:
    return None
  return np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes()


def notes(path: str) -> tuple[str, ...]:
  """Kinds of fault that the header of an image file shows and training lives with."""
  try:
    with Image.open(path) as image:
      rotated = image.getexif().get(_ROTATION, 1) != 1
      kinds = {"L": "grey", "LA": "grey", "1": "grey", "CMYK": "cmyk"}
      return tuple(kind for kind in (kinds.get(image.mode), "rotated" if rotated else None) if kind)
  except OSError:  # no image, as generated scenes are none, or gone meanwhile
    return ()
