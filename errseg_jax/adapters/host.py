"""Networks that jax cannot trace: they run once over the images, and their saved scores stand in for them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any, NoReturn

import jax.numpy as jnp
import numpy as np

from errseg_jax.adapters.factory import content_of, made
from errseg_jax.adapters.network import normalised
from errseg_jax.data.score_files import VALUES
from errseg_jax.errors import UserError

Scorer = Callable[[np.ndarray], np.ndarray]
"""image uint8 [H, W, 3] -> logits [h, w, C], or of one class of two."""


def as_logits(values: str, scores: np.ndarray) -> np.ndarray:
  """Logits float32 of what a network gives.

  Args:
    values: "logits" or "probabilities".
    scores: [h, w, C]; [h, w] or [h, w, 1] of class 1 of two.

  Raises:
    UserError: they are of another shape, or no finite numbers.
  """
  z = np.asarray(scores, np.float32)
  z = z[..., None] if z.ndim == 2 else z
  if z.ndim != 3 or not z.size:
    raise UserError(f"the network gives an array of shape {z.shape}, and scores of an image are [h, w, C]")
  if not np.isfinite(z).all():
    raise UserError("the network gives scores that are no finite numbers")
  if values == "probabilities":
    least = float(np.finfo(np.float32).tiny)
    p = np.maximum(z, least)
    z = np.log(p / np.maximum(1 - p, least)) if z.shape[-1] == 1 else np.log(p)
  return np.concatenate([np.zeros_like(z), z], -1) if z.shape[-1] == 1 else z


class HostAdapter:
  """Base of adapters whose network runs outside of jax."""

  values: str

  def network(self, num_classes: int) -> NoReturn:
    """Refuses: it cannot be part of a jax program.

    Raises:
      UserError: always.
    """
    raise UserError(
      "config.segmenter.adapter: jax cannot trace this network; run it once, `errseg data extract --config=... "
      "--out=SCORES`, and train with config.segmenter.adapter={'name': 'saved', 'folder': 'SCORES'}"
    )

  def check(self) -> None:
    """Raises UserError at values that are none."""
    if self.values not in VALUES:
      raise UserError(f"config.segmenter.adapter.values={self.values!r}: known are {', '.join(VALUES)}")


@dataclasses.dataclass(frozen=True)
class CallbackAdapter(HostAdapter):
  """A function of numpy arrays that the user's own code makes.

  Attributes:
    factory: "package.module:function" that returns a function image uint8 [H, W, 3] -> scores [h, w, C].
    options: its arguments, as pairs.
    values: what the scores are, "logits" or "probabilities".
  """

  factory: str = ""
  options: tuple[tuple[str, Any], ...] = ()
  values: str = "logits"

  def scorer(self) -> Scorer:
    """The function.

    Raises:
      UserError: the factory cannot be called, or returns something else.
    """
    self.check()
    found = made(self.factory, dict(self.options))
    if not callable(found):
      raise UserError(
        f"config.segmenter.adapter.factory={self.factory!r} returns {type(found).__name__}, no function of images"
      )
    return lambda image: as_logits(self.values, found(image))

  def fingerprint(self) -> str:
    """What tells it from another network."""
    return f"{self.factory} {self.options}"


@dataclasses.dataclass(frozen=True)
class OnnxAdapter(HostAdapter):
  """A file of ONNX, by ONNX Runtime on the CPU.

  Attributes:
    path: of a network images [1, 3, H, W], float32 and normalised -> scores [1, C, h, w], the first of its outputs.
    values: what the scores are, "logits" or "probabilities".
    mean: of the normalisation, RGB, 0..255.
    std: see mean.
  """

  path: str = ""
  values: str = "logits"
  mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
  std: tuple[float, float, float] = (58.395, 57.12, 57.375)

  def scorer(self) -> Scorer:
    """The network.

    Raises:
      UserError: ONNX Runtime is missing, or the file is none of its networks.
    """
    self.check()
    try:
      import onnxruntime
    except ModuleNotFoundError:
      raise UserError(
        "an ONNX network wants ONNX Runtime, which is missing: pip install onnxruntime"
      ) from None
    content_of(self.path)
    try:
      session = onnxruntime.InferenceSession(self.path, providers=["CPUExecutionProvider"])
    except Exception as error:  # of its own kinds, one for each thing that can be wrong with a file
      reason = " ".join(str(error).split())[:200]
      raise UserError(f"config.segmenter.adapter.path={self.path!r}: {reason}") from None
    (given, *_), preprocess = session.get_inputs(), normalised(self.mean, self.std, channels_first=True)

    def score(image: np.ndarray) -> np.ndarray:
      try:
        out, *_ = session.run(None, {given.name: np.asarray(preprocess(jnp.asarray(image[None])))})
      except Exception as error:  # as above: of sizes that the network does not take, say
        reason = " ".join(str(error).split())[:200]
        raise UserError(
          f"{self.path}: cannot label an image of {image.shape[1]}x{image.shape[0]}: {reason}"
        ) from None
      if out.ndim != 4 or len(out) != 1:
        raise UserError(f"{self.path}: its first output is {out.shape}, and scores are [1, C, h, w]")
      return as_logits(self.values, out[0].transpose(1, 2, 0))

    return score

  def fingerprint(self) -> str:
    """What tells it from another network."""
    return hashlib.blake2b(content_of(self.path), digest_size=16).hexdigest()
