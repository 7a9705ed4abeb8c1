"""Coarse, attention, refine: branches on shared features, trained end to end (P2; Wang et al. 2017).

The coarse branch is the segmenter's head (`FCN` with `map_as_high`), the attention branch stands where the error
branch stands, the fine network where the detail branch stands.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from errseg_jax.models.layers import Conv, ConvBNReLU, at_least_float32
from errseg_jax.models.pyramid import PyramidPooling
from errseg_jax.models.resize import resize
from errseg_jax.structs import IGNORE, Features

COMBINATIONS = ("probabilities", "logits")
SELECTIONS = ("soft", "hard")


def shared_map(features: Features, dtype: str) -> jax.Array:
  """What attention and fine network look at, [B, h', w', C'].

  Raises:
    ValueError: the network gives no features.
  """
  if features.high is None:
    raise ValueError("a cascade's branches need the network's features (Features.high)")
  return features.high.astype(dtype)


class AttentionBranch(nn.Module):
  """3x3 convolution, batch normalisation, ReLU, 1x1 convolution to two classes: right or wrong.

  Attributes:
    features: channels; 0 = a quarter of the shared map's, as of the coarse branch.
    dropout: rate before the classifier.
  """

  features: int = 0
  dropout: float = 0.1
  dtype: str = "float32"
  prior: ClassVar[str] = "none"

  @nn.compact
  def __call__(
    self,
    image: jax.Array,
    features: Features,
    semantic: jax.Array,
    detail: jax.Array | None = None,
    train: bool = False,
  ) -> jax.Array:
    """Logit of P(the coarse label is wrong): the difference of the two classes' logits.

    Args:
      image: uint8 [B, H, W, 3]; not looked at.
      features: of the network.
      semantic: coarse logits at the label's size, [B, H, W, C]; for its size.
      detail: not looked at.
      train: batch statistics, dropout on.

    Returns:
      [B, H, W].
    """
    del image, detail
    x = shared_map(features, self.dtype)
    x = ConvBNReLU(self.features or x.shape[-1] // 4, dtype=self.dtype, name="conv")(x, train)
    x = nn.Dropout(self.dropout, broadcast_dims=(1, 2))(x, deterministic=not train)
    both = at_least_float32(Conv(2, 1, use_bias=True, dtype=self.dtype, name="classifier")(x))
    logit = both[..., 1:] - both[..., :1]
    return resize(logit, semantic.shape[1:3], features.align_corners)[..., 0]


class PyramidClassifier(nn.Module):
  """What comes after the pooling: 3x3 convolution, batch normalisation, ReLU, 1x1 convolution to C logits.

  Attributes:
    num_classes: C.
    features: channels of the convolution.
    dropout: rate before the classifier.
    padded: False: the map brings a margin of one pixel, as a tile of a larger one does.
  """

  num_classes: int
  features: int
  dropout: float = 0.1
  padded: bool = True
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """[B, h, w, K] -> float32 logits [B, h, w, C]; without padding of [B, h + 2, w + 2, K]."""
    x = ConvBNReLU(self.features, padded=self.padded, dtype=self.dtype, name="conv")(x, train)
    x = nn.Dropout(self.dropout, broadcast_dims=(1, 2))(x, deterministic=not train)
    return at_least_float32(Conv(self.num_classes, 1, use_bias=True, dtype=self.dtype, name="classifier")(x))


class PyramidBranch(nn.Module):
  """The fine network: pyramid pooling of the shared features, a convolution, C logits.

  Normalised over the batch, not over the image: at rest its convolutions then see one place at a time, and tiles
  come out as the whole does (`models.early_exit`).

  Attributes:
    num_classes: C.
    features: channels of the convolution.
    bins: grid sizes.
    bin_features: channels of each level; 0 = the map's, divided by the number of levels.
    dropout: rate before the classifier.
  """

  num_classes: int
  features: int = 512
  bins: tuple[int, ...] = (1, 2, 3, 6)
  bin_features: int = 0
  dropout: float = 0.1
  dtype: str = "float32"

  @nn.compact
  def __call__(
    self, image: jax.Array, features: Features, semantic: jax.Array, train: bool = False
  ) -> jax.Array:
    """New class scores; the pooled map goes to the collection "intermediates" as "pooled" where that is mutable.

    Args:
      image: uint8 [B, H, W, 3]; not looked at.
      features: of the network.
      semantic: coarse logits at the label's size, [B, H, W, C]; for its size.
      train: batch statistics, dropout on.

    Returns:
      Logits [B, H, W, C].
    """
    del image
    unit = partial(ConvBNReLU, dtype=self.dtype)
    corners = features.align_corners
    pooling = PyramidPooling(unit, self.bins, self.bin_features, align_corners=corners, name="pyramid")
    x = pooling(shared_map(features, self.dtype), train)
    if not self.is_initializing():
      self.sow("intermediates", "pooled", x)
    return resize(self.classifier(name="classify")(x, train), semantic.shape[1:3], corners)

  @nn.nowrap  # also asked for outside of a forward pass
  def classifier(self, padded: bool = True, name: str | None = None) -> PyramidClassifier:
    """What its parameters at "classify" are of."""
    return PyramidClassifier(
      self.num_classes, self.features, self.dropout, padded, dtype=self.dtype, name=name
    )


@dataclasses.dataclass(frozen=True)
class Refine:
  """Coarse and fine result as one: P_refine = a P_fine + (1 - a) P_coarse with a = P(the coarse label is wrong).

  The paper's attention says where the coarse branch is right; ours is the error, as everywhere else here.

  Attributes:
    combine: what is weighted, "probabilities" or "logits".
    selection: "soft": by a; "hard": fine where a > 1/2, which teaches the attention nothing.
    detach: the refined result's loss does not reach the attention branch.
  """

  combine: str = "probabilities"
  selection: str = "soft"
  detach: bool = False

  def __call__(self, coarse: jax.Array, fine: jax.Array, attention: jax.Array) -> jax.Array:
    """Refined scores in log space.

    Args:
      coarse: logits [..., C].
      fine: logits [..., C].
      attention: logit of a, [...].

    Returns:
      [..., C]; log probabilities where those are combined.
    """
    z = self.selected(attention)[..., None]
    if self.combine == "logits":
      a = jax.nn.sigmoid(z)
      return a * fine + (1 - a) * coarse
    p_fine, p_coarse = jax.nn.log_softmax(fine), jax.nn.log_softmax(coarse)
    return jnp.logaddexp(jax.nn.log_sigmoid(z) + p_fine, jax.nn.log_sigmoid(-z) + p_coarse)

  def nll(self, coarse: jax.Array, fine: jax.Array, attention: jax.Array, label: jax.Array) -> jax.Array:
    """-log P_refine[label], [...]; of probabilities as -logaddexp(log a + log P_fine, log(1 - a) + log P_coarse).

    Args:
      coarse: logits [..., C].
      fine: logits [..., C].
      attention: logit of a, [...].
      label: uint8 [...]; 255 gives a number without meaning.
    """
    own = jnp.where(label == IGNORE, 0, label).astype(jnp.int32)[..., None]
    if self.combine == "logits":
      scores = jax.nn.log_softmax(self(coarse, fine, attention))
      return -jnp.take_along_axis(scores, own, -1)[..., 0]
    z = self.selected(attention)
    p_fine, p_coarse = (jnp.take_along_axis(jax.nn.log_softmax(x), own, -1)[..., 0] for x in (fine, coarse))
    return -jnp.logaddexp(jax.nn.log_sigmoid(z) + p_fine, jax.nn.log_sigmoid(-z) + p_coarse)

  def selected(self, attention: jax.Array) -> jax.Array:
    """The logit that weighs: of a, or of its decision."""
    if self.selection == "hard":
      return jnp.where(attention > 0, jnp.inf, -jnp.inf).astype(attention.dtype)
    return jax.lax.stop_gradient(attention) if self.detach else attention
