"""The detail branch: new labels for the pixels that the frozen network gets wrong (P0, section 3.4)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from errseg_jax.models.layers import GAU, ConvGNReLU, param_dtype
from errseg_jax.models.patches import Patches
from errseg_jax.models.resize import resize
from errseg_jax.models.sparse import MARGIN, Sparse, doubt, on_wanted, worked
from errseg_jax.structs import Features


class ImageEncoder(nn.Module):
  """Strided convolutions over image and P_sb: low-level features at the strides that a network lacks.

  Attributes:
    strides: powers of two, the maps to return.
    features: channels at stride 2, doubled at 4 and beyond.
    norm: of layers.NORMS.
  """

  strides: tuple[int, ...]
  features: int = 16
  norm: str = "group"
  dtype: str = "float32"

  @nn.compact
  def __call__(self, image, logits) -> dict[int, jax.Array]:
    rgb = (image.astype(self.dtype) - 127.5) / 127.5
    p = jax.nn.softmax(resize(logits, image.shape[1:3])).astype(self.dtype)
    x, maps, stride = jnp.concatenate([rgb, p], -1), {}, 1
    while stride < max(self.strides):
      stride *= 2
      width = self.features * (1 if stride == 2 else 2)
      x = ConvGNReLU(width, 3, 2, dtype=self.dtype, norm=self.norm, name=f"down{stride}")(x)
      x = ConvGNReLU(width, dtype=self.dtype, norm=self.norm, name=f"conv{stride}")(x)
      maps[stride] = x
    return {s: maps[s] for s in self.strides}


class DecoderBlock(nn.Module):
  """A GAU and two 3x3 convolutions.

  Attributes:
    features: channels.
    stride: of its map; the names of its parameters carry it.
    gate: of the GAU, "sigmoid" or "relu".
    norm: of layers.NORMS.
  """

  features: int
  stride: int
  gate: str = "sigmoid"
  norm: str = "group"
  dtype: str = "float32"

  @nn.compact
  def __call__(self, low, x):
    """[B, h, w, Cl], [B, h', w', Ch] -> [B, h, w, features]."""
    return self.decoded(low, x)

  def decoded(self, low, x, patches=None):
    gau = GAU(self.features, self.gate, self.dtype, self.norm, name=f"gau{self.stride}")
    x = gau(low, x, patches, MARGIN - 1)
    for number in (1, 2):
      name = f"conv{self.stride}_{number}"
      unit = ConvGNReLU(self.features, dtype=self.dtype, norm=self.norm, name=name)
      x = unit(x, patches, MARGIN - 1 - number)
    return x


class FinestBlock(DecoderBlock):
  """The last block, and the classifier on top of it.

  Attributes:
    num_classes: C.
    dropout: rate before the classifier.
    residual: the classifier starts at zero.
  """

  num_classes: int = 0
  dropout: float = 0.0
  residual: bool = False

  @nn.compact
  def __call__(  # type: ignore[override]
    self, low: jax.Array, x: jax.Array, patches: Patches | None = None, train: bool = False
  ) -> jax.Array:
    """[B, h, w, Cl], [B, h', w', Ch] -> logits [B, h, w, C]; of `patches` of one map [K, side, side, C]."""
    x = self.decoded(low if patches is None else patches.cut(low, MARGIN), x, patches)
    x = nn.Dropout(self.dropout, broadcast_dims=(1, 2))(x, deterministic=not train)
    kind = param_dtype(self.dtype)
    start = nn.initializers.zeros if self.residual else nn.initializers.normal(0.01)
    return nn.Conv(
      self.num_classes, (1, 1), kernel_init=start, dtype=kind, param_dtype=kind, name="classifier"
    )(x)


class DetailBranch(nn.Module):
  """Decoder blocks of a GAU and two 3x3 convolutions at strides 8, 4, 2, then C logits (P0, Fig. 2).

  Attributes:
    num_classes: C.
    features: channels of each block. The finest block costs most: at these a branch takes a fifth of the time of
      a DeepLabv3+ on ResNet-50.
    strides: of the blocks, coarsest first. A stride that the network's `low` features lack is filled from an
      encoder on image and P_sb.
    encoder: "missing": that encoder serves the missing strides only; "all": it joins every stride.
    encoder_features: its channels at stride 2.
    residual: the branch adds a zero-initialised correction to the frozen logits, so it starts at the frozen
      result; False: as published.
    gate: of the GAUs, "sigmoid" or "relu".
    dropout: rate before the classifier.
    norm: "group": statistics over the map (P0); "pixel_group": over the channels of each pixel, so that the finest
      block comes out on a tile as on the whole map (`models.sparse`).
  """

  num_classes: int
  features: tuple[int, ...] = (64, 48, 24)
  strides: tuple[int, ...] = (8, 4, 2)
  encoder: str = "missing"
  encoder_features: int = 16
  residual: bool = False
  gate: str = "sigmoid"
  dropout: float = 0.0
  norm: str = "group"
  dtype: str = "float32"

  @nn.compact
  def __call__(
    self,
    image: jax.Array,
    features: Features,
    semantic: jax.Array,
    train: bool = False,
    resized: bool = True,
    sparse: Sparse | None = None,
  ) -> jax.Array:
    """New class scores.

    Args:
      image: uint8 [B, H, W, 3].
      features: of the frozen network.
      semantic: its logits at the label's size, [B, H, W, C].
      train: dropout on.
      resized: False: as they come out of the finest block, for `at_size`; of a sparse branch only if it is residual.
      sparse: of a branch at rest: the finest block runs where it says; elsewhere the logits are `semantic`.

    Returns:
      Logits [B, H, W, C].
    """
    low = self.low_level(image, features)
    x = low[self.strides[0]] if features.high is None else features.high.astype(self.dtype)
    fields: dict[str, Any] = {"gate": self.gate, "norm": self.norm, "dtype": self.dtype}
    *coarse, stride = self.strides
    for number, before in enumerate(coarse):
      block = DecoderBlock(self.features[number], before, **fields)
      nn.share_scope(self, block)  # its parameters are the branch's own
      x = block(low[before], x)
    ends: dict[str, Any] = {
      "num_classes": self.num_classes,
      "dropout": self.dropout,
      "residual": self.residual,
    }
    finest = FinestBlock(self.features[-1], stride, **fields, **ends, parent=None)
    if sparse is not None:
      own, known = self.sparsely(sparse, finest, low[stride], x, features.logits)
      if not self.residual:
        return self.where_known(own, known, semantic)
    else:
      finest = finest.clone(parent=self)
      nn.share_scope(self, finest)
      own = finest(low[stride], x, train=train)
    return self.at_size(own, semantic) if resized else own

  def at_size(self, coarse: jax.Array, semantic: jax.Array) -> jax.Array:
    """Logits at the label's size, from those of the finest block."""
    logits = resize(coarse, semantic.shape[1:3])
    return semantic + logits if self.residual else logits

  def sparsely(
    self, sparse: Sparse, finest: FinestBlock, low: jax.Array, x: jax.Array, logits: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Logits [B, h, w, C] of a finest block that runs on tiles, image by image, and where it ran, bool [B, h, w, 1].

    Which tiles are wanted, bool [B, tiles], goes to the collection "intermediates" where that is mutable, and as
    "worked" the share of the tiles that run, float32 [B].
    """
    own, sampled = self.variables, self.norm == "group"
    size, side = low.shape[1:3], max(1, sparse.tile // finest.stride)
    mass = jax.vmap(lambda z: doubt(z, size, side))(logits)
    wanted = mass > sparse.threshold
    self.sow("intermediates", "wanted", wanted)
    self.sow("intermediates", "worked", worked(wanted.sum(1), size, side, sampled))

    def work(low: jax.Array, x: jax.Array, patches: Patches | None) -> jax.Array:
      logits: Any = finest.apply(own, low, x, patches)
      return logits

    def one(parts: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
      low, x, mass = parts
      found = on_wanted(work, low[None], x[None], mass, sparse, side, sampled)
      return found[0][0], found[1][0]

    if len(low) == 1:  # a loop would cost copies
      found, known = one((low[0], x[0], mass[0]))
      return found[None], known[None]
    return jax.lax.map(one, (low, x, mass))

  def where_known(self, logits: jax.Array, known: jax.Array, semantic: jax.Array) -> jax.Array:
    """Logits at the label's size where all that a pixel is taken from was computed, elsewhere `semantic`."""
    size = semantic.shape[1:3]
    return jnp.where(resize(known.astype(logits.dtype), size) > 1 - 1e-3, resize(logits, size), semantic)

  def low_level(self, image: jax.Array, features: Features) -> dict[int, jax.Array]:
    given = dict(zip(features.strides, features.low, strict=True))
    low = {s: given[s].astype(self.dtype) for s in self.strides if s in given}
    wanted = self.strides if self.encoder == "all" else [s for s in self.strides if s not in low]
    if not wanted:
      return low
    encoder = ImageEncoder(tuple(wanted), self.encoder_features, self.norm, self.dtype, name="encoder")
    for stride, x in encoder(image, features.logits).items():
      if stride in low:
        x = jnp.concatenate([low[stride], resize(x, low[stride].shape[1:3])], -1)
      low[stride] = x
    return low
