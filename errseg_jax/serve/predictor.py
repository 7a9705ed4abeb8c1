"""From the bytes of an upload to the bytes of the answer."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import struct
import time

import jax
import numpy as np
from PIL import Image

from errseg_jax.data.pipeline import bucket
from errseg_jax.errors import UserError
from errseg_jax.inference.network import TrainedNetwork
from errseg_jax.predict import predict_file
from errseg_jax.serve.uploads import Limits, read_upload
from errseg_jax.structs import Prediction

MAX_SIZES = 64  # programs that are kept compiled, each for one padded size
PLANES = ("semantic", "detail", "labels", "error")
"""Maps of an answer, in their order."""


@dataclasses.dataclass(frozen=True)
class Answer:
  """What is sent back.

  Attributes:
    body: gzip of `pack`.
    times: milliseconds by step.
  """

  body: bytes
  times: dict[str, float]


def pack(image: np.ndarray, out: Prediction, compiled: bool) -> bytes:
  """An image and what is told of it.

  Args:
    image: uint8 [H, W, 3], RGB.
    out: of it, [H, W].
    compiled: the network was compiled anew for this size.

  Returns:
    The length of the JSON that follows (4 bytes, little-endian), that JSON, the PLANES as uint8 [H, W] (class ids, and
    P_ep in steps of 1/255), the image as a JPEG to look at.
  """
  height, width = image.shape[:2]
  probability = np.asarray(out.error_probability)
  planes = (out.semantic_labels, out.detail_labels, out.labels, np.round(255 * probability))
  told = {
    "height": height,
    "width": width,
    "compiled": compiled,
    "expected_accuracy": 100 * (1 - float(probability.mean(dtype=np.float64))),
  }
  head = json.dumps(told).encode()
  picture = io.BytesIO()
  Image.fromarray(image).save(picture, "JPEG", quality=92, subsampling=0)
  maps = [np.ascontiguousarray(plane, np.uint8).tobytes() for plane in planes]
  return b"".join((struct.pack("<I", len(head)), head, *maps, picture.getvalue()))


class Predictor:
  """Answers uploads, one at a time: whoever calls `answer` takes care of that.

  Attributes:
    network: a trained run that sees nothing but the image.
    limits: of an upload.
  """

  def __init__(self, network: TrainedNetwork, limits: Limits):
    self.network, self.limits = network, limits
    self._compiled: set[tuple[int, int]] = set()

  def _bucket(self, height: int, width: int) -> tuple[int, int]:
    """The size that the network sees."""
    config = self.network.config
    factor = config.data.get("downscale", 1)
    small = max(1, height // factor), max(1, width // factor)
    return bucket(*small, config.loader.size_multiple, config.segmenter.size_remainder)

  def compiled(self, height: int, width: int) -> bool:
    """Whether the network is compiled for images of this size."""
    return self._bucket(height, width) in self._compiled

  def predict(self, image: np.ndarray) -> tuple[Prediction, bool]:
    """Of an image uint8 [H, W, 3], and whether the network was compiled for it.

    Raises:
      UserError: the device has not enough memory for it.
    """
    size = self._bucket(*image.shape[:2])
    anew = size not in self._compiled
    if anew and len(self._compiled) >= MAX_SIZES:
      jax.clear_caches()
      self._compiled.clear()
    try:
      out = predict_file(self.network, image)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
      if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
        raise
      height, width = image.shape[:2]
      raise UserError(
        f"the device has not enough memory for an image of {width}x{height}: shrink it"
      ) from None
    self._compiled.add(size)
    return out, anew

  def answer(self, content: bytes) -> Answer:
    """What is told of an upload.

    Raises:
      UserError: it is no image that is taken, or the device has not enough memory for it.
    """
    clock = [time.perf_counter()]
    image = read_upload(content, self.limits)
    clock.append(time.perf_counter())
    out, anew = self.predict(image)
    clock.append(time.perf_counter())
    body = gzip.compress(pack(image, out, anew), compresslevel=1, mtime=0)
    clock.append(time.perf_counter())
    steps = ("decode", "network", "encode")
    return Answer(body, dict(zip(steps, (1000 * np.diff(clock)).tolist(), strict=True)))
