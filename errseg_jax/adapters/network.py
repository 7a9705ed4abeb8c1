"""A given network as a pure function, and the module that it is to the branches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from errseg_jax.errors import UserError
from errseg_jax.structs import Features

RGB = 3


def as_they_are(images: jax.Array) -> jax.Array:
  """A `preprocess` that does nothing."""
  return images


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
  """A network that is not ours.

  Attributes:
    function: (weights, images) -> logits [B, h, w, C] at any stride, or Features. Pure: jax traces it.
    weights: what it is called with, by name: arguments of the compiled programs, no constants in them.
    num_classes: C. One of two classes may come as a single logit [B, h, w, 1], that of class 1.
    preprocess: uint8 RGB images [B, H, W, 3] -> what `function` takes.
    channels: of the images; more than RGB where scores come with them (`data.scores`).
  """

  function: Callable[[Mapping[str, jax.Array], jax.Array], Any]
  weights: Mapping[str, np.ndarray | jax.Array]
  num_classes: int
  preprocess: Callable[[jax.Array], jax.Array] = as_they_are
  channels: int = RGB


class Adapted(nn.Module):
  """A `Network` in place of a `models.segmenter.Segmenter`.

  Its weights are parameters like any other's, but for their values: `variables` of `given_weights` bring them.

  Attributes:
    network: what runs.
    mean: RGB, 0..255, that images are padded with.
  """

  network: Network
  mean: tuple[float, float, float] = (123.675, 116.28, 103.53)

  @property
  def image_channels(self) -> int:
    """Of the images that it takes."""
    return self.network.channels

  @nn.compact
  def __call__(self, image: jax.Array, train: bool = False) -> Features:
    """[B, H, W, 3] uint8 RGB -> Features; `train` changes nothing."""
    given = self.network.weights
    weights = {name: self.param(name, _zeros, jnp.shape(x), jnp.result_type(x)) for name, x in given.items()}
    with jax.numpy_rank_promotion("allow"):  # where we are strict, others need not be
      out = self.network.function(weights, self.network.preprocess(image))
    return as_features(out, self.network.num_classes, image.shape)


def _zeros(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
  return jnp.zeros(shape, dtype)


def as_features(out: Any, num_classes: int, image: tuple[int, ...]) -> Features:
  """What a network gave as Features, float32 logits of all classes.

  Args:
    out: Features, or logits [B, h, w, C].
    num_classes: C.
    image: shape of the images, for messages.

  Raises:
    UserError: it is neither, or of other classes.
  """
  features = out if isinstance(out, Features) else Features(logits=out)
  shape = jnp.shape(features.logits)
  if len(shape) == 4 and shape[3] == 1 and num_classes == 2:
    logits = jnp.concatenate([jnp.zeros_like(features.logits), features.logits], -1)
    return dataclasses.replace(features, logits=logits.astype(jnp.float32))
  if len(shape) != 4 or shape[0] != image[0] or shape[3] != num_classes:
    hint = ": put the classes last" if len(shape) == 4 and shape[1] == num_classes else ""
    raise UserError(
      f"the network gives {type(out).__name__} of shape {shape} for images {tuple(image)}; logits must be "
      f"[{image[0]}, h, w, {num_classes}]{hint}"
    )
  return dataclasses.replace(features, logits=features.logits.astype(jnp.float32))


def given_weights(module: nn.Module) -> dict[str, Any]:
  """Parameters of an adapted segmenter, as numpy arrays; none of one of ours."""
  return (
    {name: np.asarray(x) for name, x in module.network.weights.items()} if isinstance(module, Adapted) else {}
  )


def normalised(
  mean: tuple[float, float, float] = (123.675, 116.28, 103.53),
  std: tuple[float, float, float] = (58.395, 57.12, 57.375),
  channels_first: bool = False,
) -> Callable[[jax.Array], jax.Array]:
  """A `preprocess`: uint8 RGB [B, H, W, 3] -> float32 (x - mean) / std, in that layout or as [B, 3, H, W].

  Args:
    mean: per channel, 0..255.
    std: per channel, 0..255.
    channels_first: as PyTorch's networks take images.
  """

  def preprocess(images: jax.Array) -> jax.Array:
    shift, scale = (jnp.array(v, jnp.float32).reshape(1, 1, 1, 3) for v in (mean, std))
    x = (images.astype(jnp.float32) - shift) / scale
    return x.transpose(0, 3, 1, 2) if channels_first else x

  return preprocess
