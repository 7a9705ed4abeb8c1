"""Keras models on the JAX backend as jax functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from errseg_jax.adapters.factory import made
from errseg_jax.adapters.network import Network, normalised
from errseg_jax.data.score_files import VALUES
from errseg_jax.errors import UserError


def from_keras(
  model: Any,
  num_classes: int,
  *,
  values: str = "logits",
  preprocess: Callable[[jax.Array], jax.Array] | None = None,
) -> Network:
  """A network from a Keras model; its variables are arguments of the jax function.

  Args:
    model: images [B, H, W, 3] -> scores [B, h, w, C].
    num_classes: C.
    values: what the scores are, "logits" or "probabilities".
    preprocess: uint8 RGB [B, H, W, 3] -> what the model takes; None: ImageNet's mean and deviation.

  Raises:
    UserError: Keras is missing, or runs on another backend.
  """
  check_backend()
  if values not in VALUES:
    raise UserError(f"config.segmenter.adapter.values={values!r}: known are {', '.join(VALUES)}")
  groups = model.trainable_variables, model.non_trainable_variables
  names = [[f"{kind}{k}" for k in range(len(own))] for kind, own in zip("tn", groups, strict=True)]
  weights = {
    name: np.asarray(variable)
    for keys, own in zip(names, groups, strict=True)
    for name, variable in zip(keys, own, strict=True)
  }

  def function(given: Mapping[str, jax.Array], images: jax.Array) -> jax.Array:
    trained, others = ([given[name] for name in keys] for keys in names)
    scores, _ = model.stateless_call(trained, others, images, training=False)
    if values == "logits":
      return scores
    p = jnp.maximum(scores.astype(jnp.float32), jnp.finfo(jnp.float32).tiny)
    return jnp.log(p) - jnp.log1p(-jnp.minimum(p, 1 - 1e-6)) if p.shape[-1] == 1 else jnp.log(p)

  return Network(function, weights, num_classes, preprocess or normalised())


def check_backend() -> None:
  """Raises UserError where Keras is missing or does not run on JAX."""
  try:
    import keras
  except ModuleNotFoundError as error:
    raise UserError(f"a Keras network wants {error.name}, which is missing: pip install keras") from None
  if keras.config.backend() != "jax":
    raise UserError(
      f"Keras runs on {keras.config.backend()}: set the environment variable KERAS_BACKEND=jax before it is imported"
    )


@dataclasses.dataclass(frozen=True)
class KerasAdapter:
  """A Keras model that the user's own code makes.

  Attributes:
    factory: "package.module:function" that returns the model, its weights loaded.
    options: its arguments, as pairs.
    values: of `from_keras`.
    mean: of the normalisation, RGB, 0..255.
    std: see mean.
  """

  factory: str = ""
  options: tuple[tuple[str, Any], ...] = ()
  values: str = "logits"
  mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
  std: tuple[float, float, float] = (58.395, 57.12, 57.375)

  def network(self, num_classes: int) -> Network:
    """The network.

    Raises:
      UserError: as of `from_keras`, or the factory cannot be called.
    """
    check_backend()
    model = made(self.factory, dict(self.options))
    if not hasattr(model, "stateless_call"):
      raise UserError(
        f"config.segmenter.adapter.factory={self.factory!r} returns {type(model).__name__}, no Keras model"
      )
    return from_keras(model, num_classes, values=self.values, preprocess=normalised(self.mean, self.std))
