"""PyTorch modules as jax functions, by torchax."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from errseg_jax.adapters.factory import made
from errseg_jax.adapters.network import Network, normalised
from errseg_jax.errors import UserError
from errseg_jax.structs import Features

FITTING = "torch==2.13.0 and torchax==0.0.13"
"""Versions that are tested together."""


def from_torch(
  module: Any,
  num_classes: int,
  *,
  low: Sequence[str] = (),
  high: str = "",
  preprocess: Callable[[jax.Array], jax.Array] | None = None,
  align_corners: bool = False,
) -> Network:
  """A network from a PyTorch module; its parameters are arguments of the jax function, and PyTorch runs nothing.

  Args:
    module: images [B, 3, H, W] -> logits [B, C, h, w]; or {"out": logits} (torchvision), an object with `logits`
      (transformers), or with scores of queries (MaskFormer, Mask2Former).
    num_classes: C.
    low: names of submodules whose outputs [B, c, h, w] are the branches' `Features.low`, finest first.
    high: name of the submodule whose output is `Features.high`.
    preprocess: uint8 RGB [B, H, W, 3] -> what the module takes; None: ImageNet's mean and deviation, channels first.
    align_corners: how logits are resized to the image's size.

  Raises:
    UserError: PyTorch or torchax is missing, they do not fit each other, or a submodule is not there.
  """
  torchax = loaded()
  names = (*low, *((high,) if high else ()))
  known = dict(module.named_modules())
  if missing := [name for name in names if name not in known]:
    raise UserError(f"the module has no submodule {missing[0]!r}; it has {', '.join(list(known)[1:20])} ...")
  states, run = torchax.extract_jax(_tapped(module.eval(), names))
  weights = {name: np.asarray(value) for name, value in states.items()}

  def function(given: Mapping[str, jax.Array], images: jax.Array) -> Features:
    maps = [x.transpose(0, 2, 3, 1) for x in run(dict(given), (images,))]
    logits, taps, size = maps[0], dict(zip(names, maps[1:], strict=True)), images.shape[2]
    return Features(
      logits=logits,
      low=tuple(taps[name] for name in low),
      high=taps.get(high),
      strides=tuple(round(size / taps[name].shape[1]) for name in low),
      align_corners=align_corners,
    )

  return Network(function, weights, num_classes, preprocess or normalised(channels_first=True))


def _tapped(module: Any, names: Sequence[str]) -> Any:
  """A module that returns (logits, outputs of the named submodules)."""
  import torch

  class Tapped(torch.nn.Module):
    """`module`, listened to."""

    def __init__(self) -> None:
      super().__init__()
      self.module, self.heard = module, dict[str, Any]()
      for name in names:
        module.get_submodule(name).register_forward_hook(self.hear(name))

    def hear(self, name: str) -> Callable[..., None]:
      """A hook that keeps what a submodule returns."""

      def hook(own: Any, given: Any, out: Any) -> None:
        self.heard[name] = out[0] if isinstance(out, tuple | list) else out

      return hook

    def forward(self, images: Any) -> tuple[Any, ...]:
      logits = scores_of(self.module(images))
      return logits, *(self.heard[name] for name in names)

  return Tapped()


def scores_of(out: Any) -> Any:
  """The class scores [B, C, h, w] in what a segmentation network returns.

  Raises:
    UserError: there are none.
  """
  import torch

  if isinstance(out, torch.Tensor):
    return out
  if isinstance(out, Mapping) and "out" in out:
    return out["out"]
  queries, masks = (getattr(out, name, None) for name in ("class_queries_logits", "masks_queries_logits"))
  if queries is not None and masks is not None:
    # What their image processors do: each query's classes, but "none", weigh its mask.
    seen = torch.einsum("bqc,bqhw->bchw", queries.softmax(-1)[..., :-1], masks.sigmoid())
    return torch.log(seen.clamp(min=1e-6))
  if (logits := getattr(out, "logits", None)) is not None:
    return logits
  raise UserError(
    f"the module returns {type(out).__name__}: it must be a tensor, a dictionary with 'out', or have logits"
  )


def loaded() -> Any:
  """torchax.

  Raises:
    UserError: it or PyTorch is missing, or they do not fit each other.
  """
  try:
    import torch

    with overloads(torch):
      import torchax

      torchax.default_env()  # its tables of operators are read now, not at the first call
  except ModuleNotFoundError as error:
    raise UserError(
      f"a PyTorch network wants {error.name}, which is missing: pip install {FITTING}"
    ) from None
  except Exception as error:  # of whichever of torchax's tables a version of torch does not match
    versions = " and ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "torchax"))
    raise UserError(
      f"{versions} do not fit each other ({type(error).__name__}: {error}); these do: {FITTING}"
    ) from None
  return torchax


@contextlib.contextmanager
def overloads(torch: Any) -> Iterator[None]:
  """While torchax is imported, overloads of named tensors, which PyTorch 2.13 dropped, are placeholders."""
  packet = torch._ops.OpOverloadPacket
  plain = packet.__getattr__

  def find(self: Any, name: str) -> Any:
    try:
      return plain(self, name)
    except AttributeError:
      if "names" in name or "Dimname" in name or "dimname" in name:
        return object()
      raise

  packet.__getattr__ = find
  try:
    yield
  finally:
    packet.__getattr__ = plain


@dataclasses.dataclass(frozen=True)
class TorchAdapter:
  """A PyTorch module that the user's own code makes.

  Attributes:
    factory: "package.module:function" that returns the module, its weights loaded.
    options: its arguments, as pairs.
    low: of `from_torch`.
    high: of `from_torch`.
    mean: of the normalisation, RGB, 0..255.
    std: see mean.
    align_corners: of `from_torch`.
  """

  factory: str = ""
  options: tuple[tuple[str, Any], ...] = ()
  low: tuple[str, ...] = ()
  high: str = ""
  mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
  std: tuple[float, float, float] = (58.395, 57.12, 57.375)
  align_corners: bool = False

  def network(self, num_classes: int) -> Network:
    """The network.

    Raises:
      UserError: as of `from_torch`, or the factory cannot be called.
    """
    loaded()
    module = made(self.factory, dict(self.options))
    if not hasattr(module, "named_modules"):
      raise UserError(
        f"config.segmenter.adapter.factory={self.factory!r} returns {type(module).__name__}, no torch.nn.Module"
      )
    return from_torch(
      module,
      num_classes,
      low=self.low,
      high=self.high,
      preprocess=normalised(self.mean, self.std, channels_first=True),
      align_corners=self.align_corners,
    )
