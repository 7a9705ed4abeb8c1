"""An image seen several times, at several scales and mirrored; what a network says of each view is combined.

P3 (Shen and Zeng 2018), section 3.3: scales 1.2, 1.0 and 0.8 with their mirror images, score maps and global scores
combined.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from errseg_jax.data.pipeline import bucket
from errseg_jax.data.scores import TOP
from errseg_jax.errors import UserError
from errseg_jax.models.resize import resize
from errseg_jax.structs import Outputs

COMBINATIONS = ("mean", "max", "mean_max", "learned")

View = tuple[float, bool]
"""(scale, whether it is mirrored)."""


@dataclasses.dataclass(frozen=True)
class Padding:
  """How an image gets a size that the network takes.

  Attributes:
    multiple: sizes are multiples of it plus `remainder`.
    remainder: see multiple.
    colour: of the padding, RGB 0..255; scores that come with an image (`data.scores`) are equal there.
  """

  multiple: int
  remainder: int
  colour: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Views:
  """The views of an image, and what becomes of their scores.

  Scores are combined as the network gives them, z_i, as P3 does: not their probabilities. So a sum with a weight of
  its own for each view and class contains the mean (all weights 1/K), and a constant that a view adds to all classes
  of a pixel moves no label under the mean.

  Attributes:
    padding: of a scaled image.
    scales: factors of height and width.
    mirror: each scale's mirror image is seen too.
    combine: "mean", "max", "mean_max" ((mean + max) / 2, P3 Eq. 8) or "learned" (sum_i lambda_i z_i with lambda_i in
      R^C, Eq. 9). Learned weights are of score maps; the error logit and global scores get their mean then.
    share: of an image's tiles that are seen in all views, those of the largest mean P_ep; the others once
      (`models.second_look`).
    tile: side of these, pixels.
    margin: around them, pixels.
  """

  padding: Padding
  scales: tuple[float, ...] = (1.0,)
  mirror: bool = False
  combine: str = "mean"
  share: float = 1.0
  tile: int = 32
  margin: int = 32

  @property
  def each(self) -> tuple[View, ...]:
    """All K of them, scale by scale, the mirror image behind its own."""
    return tuple((scale, m) for scale in self.scales for m in ((False, True) if self.mirror else (False,)))


def look(function: Callable[[jax.Array], Any], image: jax.Array, view: View, padding: Padding) -> Any:
  """What a function of images says of one view, put back in place.

  Args:
    function: image uint8 [B, h, w, 3] -> a tree of maps [B, h, w, ...] and of what has no place, [B, C].
    image: uint8 [B, H, W, 3], of a size that the network takes.
    view: to see it in.
    padding: of a scaled image; an image at its own scale is as its caller padded it.

  Returns:
    The tree, with maps [B, H, W, ...].
  """
  scale, mirrored = view
  size = image.shape[1:3]
  image = image[:, :, ::-1] if mirrored else image
  height, width = size if scale == 1 else (max(1, round(scale * n)) for n in size)
  outputs = function(image if scale == 1 else scaled(image, height, width, padding))

  def back(z: jax.Array) -> jax.Array:
    if z.ndim < 3:
      return z
    flat = z[:, :height, :width].reshape(len(z), height, width, -1)
    z = resize(flat, size).reshape(len(z), *size, *z.shape[3:])
    return z[:, :, ::-1] if mirrored else z

  return jax.tree.map(back, outputs)


def scaled(image: jax.Array, height: int, width: int, padding: Padding) -> jax.Array:
  """uint8 [B, H, W, 3] -> the same image at [height, width], rounded, padded at the bottom and right."""
  image = jnp.round(resize(image.astype(jnp.float32), (height, width))).astype(jnp.uint8)
  more = (TOP,) * (image.shape[-1] - len(padding.colour))
  colour = jnp.round(jnp.asarray((*padding.colour, *more))).astype(jnp.uint8)
  size = bucket(height, width, padding.multiple, padding.remainder)
  return jnp.broadcast_to(colour, (len(image), *size, image.shape[-1])).at[:, :height, :width].set(image)


def combined(
  function: Callable[[jax.Array], Outputs], image: jax.Array, views: Views, weights: jax.Array | None = None
) -> Outputs:
  """Outputs of all views of an image, combined field by field.

  The views run one after another, and no more than two sums are kept of them.

  Args:
    function: image -> Outputs, as `look` takes it.
    image: uint8 [B, H, W, 3].
    views: to see it in.
    weights: lambda, float32 [K, C], of combine "learned".

  Raises:
    UserError: learned weights are missing, or of other views or classes.
  """
  count = len(views.each)
  total: Any = None
  best: Any = None
  for k, view in enumerate(views.each):
    outputs = look(function, image, view, views.padding)
    own = None
    if views.combine == "learned":
      own = checked(weights, (count, outputs.semantic.shape[-1]))[k]
    part = weighted(outputs, 1 / count, own)
    total = part if total is None else jax.tree.map(jnp.add, total, part)
    if views.combine in ("max", "mean_max"):
      best = outputs if best is None else jax.tree.map(jnp.maximum, best, outputs)
  if views.combine == "max":
    return best
  if views.combine == "mean_max":
    return jax.tree.map(lambda a, b: (a + b) / 2, total, best)
  return total


def weighted(outputs: Outputs, share: float, own: jax.Array | None) -> Outputs:
  """A view's part of the sum: its class maps by their own weights [C] where there are some, the rest by its share."""

  def part(z: jax.Array) -> jax.Array:
    if own is None or z.ndim < 4:
      return z * jnp.asarray(share, z.dtype)
    return z * own.astype(z.dtype).reshape(1, 1, 1, -1)

  return jax.tree.map(part, outputs)


def checked(weights: Any, shape: tuple[int, int]) -> jax.Array:
  """Learned weights.

  Raises:
    UserError: there are none, or not one for each view and class.
  """
  if weights is None or jnp.shape(weights) != shape:
    found = "none" if weights is None else f"weights of shape {jnp.shape(weights)}"
    raise UserError(
      f"config.views.combine='learned' wants weights of {shape[0]} views and {shape[1]} classes, and this run has "
      f"{found}: fit them with these views by `errseg tune`, or take 'mean'"
    )
  return jnp.asarray(weights)
