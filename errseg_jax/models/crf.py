"""Guidance CRF: neighbours of one colour agree on a label, and the classes that the image holds are favoured.

Mean field whose messages are guided filters of the image (Shen and Zeng 2018, section 3.2, on Shen et al., CVPR 2017).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from errseg_jax.models.guided_filter import filter_of

COMPATIBILITIES = ("guidance", "learned")
KERNELS = ("guided", "gaussian_bilateral")


@dataclasses.dataclass(frozen=True)
class GuidanceCRF:
  """Settings of the mean field.

  `alpha` and `lam` may be traced arrays (`dataclasses.replace` inside a jitted function): a sweep then compiles once.

  Attributes:
    iterations: mean-field updates; 0 = no CRF.
    radius: windows are 2 radius + 1 pixels wide; the paper does not say how wide. Any costs the same with the kernel
      "guided"; with "gaussian_bilateral" the cost grows with its square.
    eps: of the guided filter, added to the variances of colours in 0..255 (grey levels squared); 10 in the paper.
    alpha: weight of the neighbours against the scores. None: what `errseg tune` chose on unseen images; `mean_field`
      wants a number.
    lam: weight of the classes that the image holds within alpha; 0 leaves Potts or the learned compatibility alone.
      None: as above.
    compatibility: "guidance": Potts and the image's classes; "learned": a matrix [C, C] in place of Potts.
    kernel: "guided", or "gaussian_bilateral", as a dense CRF has it (Kraehenbuehl and Koltun 2011), cut to the window.
    subsample: of the guided filter's fast form: coefficients are found on images that many times smaller.
    sigma_xy: of the bilateral kernel, pixels.
    sigma_rgb: of the bilateral kernel, grey levels.
    sigma_smooth: of the Gaussian kernel, pixels.
    bilateral: share of the bilateral kernel; the Gaussian one has the rest.
  """

  iterations: int = 0
  radius: int = 20
  eps: float = 10.0
  alpha: float | None = None
  lam: float | None = None
  compatibility: str = "guidance"
  kernel: str = "guided"
  subsample: int = 1
  sigma_xy: float = 30.0
  sigma_rgb: float = 10.0
  sigma_smooth: float = 3.0
  bilateral: float = 0.6


def mean_field(
  crf: GuidanceCRF,
  image: jax.Array,
  scores: jax.Array,
  presence: jax.Array | None = None,
  compatibility: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Updates Q = softmax(u') with m = messages(Q) and u' = u - alpha sum_b mu(a, b) m_b, where

    mu(a, b) = [a != b] - lambda (s_a + s_b) / 2, s = sigmoid(presence)  (Eq. 6 and 7; the diagonal included).

  As the messages sum to one over the classes, this is u' = u + alpha m_a + alpha lambda s_a / 2 up to a constant,
  and is computed so; u, the first scores, are added anew each time. With the compatibility "learned" the matrix
  stands in place of [a != b]. Messages are not cut to 0..1: the guided filter overshoots where windows extrapolate,
  as its kernel (Eq. 5) has negative weights, but its messages sum to one as they are, and the update stays linear
  in them.

  Args:
    crf: its settings.
    image: [B, H, W, 3], 0..255; further channels are not looked at.
    scores: u, [B, H, W, C], logits or log-probabilities.
    presence: logits of the classes' presence in the image, [B, C]; None: s = 0.
    compatibility: penalties [C, C] of label a (row) where neighbours have b (column), for "learned".

  Returns:
    (u' of the last iteration, float32 [B, H, W, C]; share of the labels that changed in each, [iterations]).

  Raises:
    ValueError: alpha or lam is None; a matrix without "learned", or the other way round; an unknown kernel or
      compatibility.
  """
  if crf.compatibility not in COMPATIBILITIES or (crf.compatibility == "learned") != (
    compatibility is not None
  ):
    raise ValueError("compatibility is 'guidance', or 'learned' with a matrix")
  alpha, lam = crf.alpha, 0.0 if presence is None else crf.lam
  if alpha is None or lam is None:
    raise ValueError("alpha and lam must be numbers: choose them on unseen images first")
  weight, unary = jnp.asarray(alpha, jnp.float32), scores.astype(jnp.float32)
  if presence is not None:
    unary = unary + weight * lam / 2 * jax.nn.sigmoid(presence.astype(jnp.float32))[:, None, None]
  messages = messages_of(crf, image[..., :3])

  def update(carry, _):
    now, labels = carry
    m = messages(jax.nn.softmax(now))
    now = unary + weight * (m if compatibility is None else -penalised(m, compatibility))
    new = now.argmax(-1)
    return (now, new), (new != labels).mean()

  start = scores.astype(jnp.float32)
  (now, _), changed = jax.lax.scan(update, (start, start.argmax(-1)), length=crf.iterations)
  return now, changed


def penalised(m: jax.Array, compatibility: jax.Array) -> jax.Array:
  """sum_b mu(a, b) m_b, [B, H, W, C] with [C, C]."""
  return jnp.einsum("bhwd,cd->bhwc", m, compatibility, precision="highest")


def messages_of(crf: GuidanceCRF, image: jax.Array) -> Callable[[jax.Array], jax.Array]:
  """Q [B, H, W, C] -> what the neighbours of each pixel say, of the same shape; it sums to one over the classes.

  Raises:
    ValueError: an unknown kernel.
  """
  image = image.astype(jnp.float32)
  if crf.kernel == "guided":
    return filter_of(image, crf.radius, crf.eps, subsample=crf.subsample)
  if crf.kernel == "gaussian_bilateral":
    return lambda q: window_messages(crf, image, q)
  raise ValueError(f"kernel={crf.kernel!r} is none of {', '.join(KERNELS)}")


def window_messages(crf: GuidanceCRF, image: jax.Array, q: jax.Array) -> jax.Array:
  """Means of the neighbours' Q under the Gaussian and the bilateral kernel, the pixel itself left out.

  exp(-d^2 / (2 sigma_smooth^2)) and exp(-d^2 / (2 sigma_xy^2) - |I_i - I_j|^2 / (2 sigma_rgb^2)), in the window.
  """
  r, (height, width) = crf.radius, image.shape[1:3]
  inside = jnp.ones((*image.shape[:3], 1), q.dtype)
  pads = ((0, 0), (r, r), (r, r), (0, 0))
  everything = jnp.pad(jnp.concatenate([image, inside, q], -1), pads)
  offsets = [(i, j) for i in range(2 * r + 1) for j in range(2 * r + 1) if (i, j) != (r, r)]

  def add(sums, offset):
    near = jax.lax.dynamic_slice(
      everything, (0, offset[0], offset[1], 0), (image.shape[0], height, width, everything.shape[-1])
    )
    far = jnp.square(offset - r).sum().astype(jnp.float32)
    apart = jnp.square(near[..., :3] - image).sum(-1, keepdims=True)
    smooth = jnp.exp(-far / (2 * crf.sigma_smooth**2))
    alike = jnp.exp(-far / (2 * crf.sigma_xy**2) - apart / (2 * crf.sigma_rgb**2))
    return tuple(
      total + weight * near[..., 3:] for total, weight in zip(sums, (smooth, alike), strict=True)
    ), None

  empty = jnp.zeros((*q.shape[:3], q.shape[3] + 1), q.dtype)
  # A pixel unlike all of its neighbours hears itself.
  start = tuple(empty + tiny * jnp.concatenate([inside, q], -1) for tiny in (1e-12, 1e-12))
  (smooth, alike), _ = jax.lax.scan(add, start, jnp.asarray(np.array(offsets).reshape(-1, 2)))
  smooth, alike = (sums[..., 1:] / sums[..., :1] for sums in (smooth, alike))
  return crf.bilateral * alike + (1 - crf.bilateral) * smooth
