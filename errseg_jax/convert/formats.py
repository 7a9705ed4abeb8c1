"""Files of published weights -> {name: array}. Nothing that a file holds is ever executed."""

from __future__ import annotations

import os
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from errseg_jax.errors import UserError

Arrays = dict[str, np.ndarray]

NESTED = ("state_dict", "model_state_dict", "model_state", "model")
"""Keys under which training programs keep the weights beside their optimizer."""
MALFORMED = (EOFError, KeyError, IndexError, TypeError, AttributeError)
"""What readers raise on files that begin well and go on wrongly."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""What wrappers (data parallel, compiled, Lightning) put before every name."""
DUMP = (".index", ".meta", ".ckpt", ".pb", ".params", ".data-00000-of-00001")
"""Files of TensorFlow and MXNet, which only their own programs read."""


def read_arrays(path: pathlib.Path) -> Arrays:
  """Every array of a file of weights, by its published name.

  Args:
    path: `.pth`, `.pt`, `.pth.tar` or Lightning's `.ckpt` (PyTorch), `.safetensors`, `.npz`, or `.h5` (Keras).

  Returns:
    {name: array}; a nesting such as {"state_dict": ...} is unwrapped, and a prefix that a wrapper put before
    every name ("module.") is dropped. Keras names are LAYER/KIND, as "conv1/kernel".

  Raises:
    UserError: no such file, an unknown format, a damaged file, or one that holds pickled objects.
  """
  path = pathlib.Path(path)
  if not is_file(path):
    raise UserError(f"--weights={path} does not exist or is no file")
  if not os.access(path, os.R_OK):
    raise UserError(f"--weights={path} may not be read: give yourself the right to, or copy it")
  if path.suffix == ".ckpt" and zipfile.is_zipfile(path):  # Lightning's; TensorFlow's is no zip
    return read_torch(path)
  if path.suffix not in READERS:
    if path.suffix in DUMP:
      raise UserError(
        f"{path} is a TensorFlow or MXNet file: dump it to an .npz first; docs/convert.md has the few lines"
      )
    raise UserError(f"{path}: unknown kind of file; known are {', '.join(READERS)}")
  arrays = READERS[path.suffix](path)
  if not arrays:
    raise UserError(f"{path} holds no arrays")
  return arrays


def is_file(path: pathlib.Path) -> bool:
  """Whether there is a file; False too where the folder may not be looked into."""
  try:
    return path.is_file()
  except OSError:
    return False


def _damaged(path: pathlib.Path, kind: str) -> UserError:
  return UserError(f"{path} is no readable {kind}: it is truncated, or of another format than its name says")


def read_torch(path: pathlib.Path) -> Arrays:
  """A state dict saved by `torch.save`."""
  try:
    import torch
  except ImportError:
    raise UserError(
      f"{path} needs PyTorch to be read: `pip install torch`, or save it as .safetensors where PyTorch is"
    ) from None
  with path.open("rb") as file:
    pickled = file.read(1) == b"\x80"  # the form before PyTorch 1.6
  if not pickled and not zipfile.is_zipfile(path):
    raise _damaged(path, "PyTorch file")
  try:
    content = torch.load(path, map_location="cpu", weights_only=True)
  except pickle.UnpicklingError:
    raise UserError(
      f"{path} holds pickled objects, which are never run: where it was made, save its tensors alone, "
      "torch.save(model.state_dict(), FILE)"
    ) from None
  except (RuntimeError, OSError, ValueError, zipfile.BadZipFile, *MALFORMED):
    raise _damaged(path, "PyTorch file") from None
  tensors = unwrap(path, content, torch.Tensor)
  strange = [k for k, v in tensors.items() if v.layout != torch.strided or v.is_quantized]
  if strange:
    raise UserError(f"{path}: {strange[0]} is sparse or quantised: save the network's float weights")
  wide = (v.float() if v.is_floating_point() else v for v in tensors.values())
  return {k: v.detach().cpu().numpy() for k, v in zip(tensors, wide, strict=True)}


def unwrap(path: pathlib.Path, content: Any, kind: type) -> dict[str, Any]:
  """The innermost mapping of names to `kind` in what a training program saved, without wrappers' prefixes.

  Raises:
    UserError: there is none.
  """
  while isinstance(content, Mapping):
    if content and all(isinstance(k, str) and isinstance(v, kind) for k, v in content.items()):
      return without_prefixes(dict(content))
    inner = [k for k in NESTED if isinstance(content.get(k), Mapping)]
    if not inner:
      break
    content = content[inner[0]]
  keys = ", ".join(map(str, list(content)[:6])) if isinstance(content, Mapping) else type(content).__name__
  raise UserError(f"{path} holds no plain dict of tensors (it holds {keys}): save model.state_dict() alone")


def without_prefixes(arrays: dict[str, Any]) -> dict[str, Any]:
  """The same arrays; prefixes that all names have are gone, one inside the other."""
  while arrays and (shared := [p for p in PREFIXES if all(name.startswith(p) for name in arrays)]):
    arrays = {name.removeprefix(shared[0]): value for name, value in arrays.items()}
  return arrays


def read_safetensors(path: pathlib.Path) -> Arrays:
  """A .safetensors file; bfloat16 becomes float32."""
  import ml_dtypes
  from safetensors import SafetensorError
  from safetensors.numpy import load_file

  try:
    arrays = load_file(path)
  except (SafetensorError, OSError, ValueError, TypeError, KeyError):
    raise _damaged(path, ".safetensors file") from None
  wide = {k: v.astype(np.float32) if v.dtype == ml_dtypes.bfloat16 else v for k, v in arrays.items()}
  return without_prefixes(wide)


def read_npz(path: pathlib.Path) -> Arrays:
  """An .npz of arrays."""
  if not zipfile.is_zipfile(path):  # numpy would take it for a pickle
    raise _damaged(path, ".npz file")
  try:
    with np.load(path, allow_pickle=False) as file:
      return without_prefixes({name: file[name] for name in file.files})
  except (ValueError, OSError, zipfile.BadZipFile, *MALFORMED) as error:
    if "allow_pickle" in str(error):
      raise UserError(f"{path} holds pickled objects, which are never run: save plain arrays") from None
    raise _damaged(path, ".npz file") from None


def read_keras(path: pathlib.Path) -> Arrays:
  """A model or its weights saved by Keras as .h5."""
  try:
    import h5py
  except ImportError:
    raise UserError(f"{path} needs h5py to be read: `pip install errseg-jax[keras]`") from None
  try:
    with h5py.File(path, "r") as file:
      root = file.get("model_weights", file)
      if "layer_names" not in root.attrs:
        raise UserError(f"{path} has no Keras layer names: save the model by model.save('NAME.h5')")
      return {
        f"{_text(layer)}/{_kind(_text(weight))}": np.asarray(root[_text(layer)][_text(weight)])
        for layer in root.attrs["layer_names"]
        for weight in root[_text(layer)].attrs["weight_names"]
      }
  except (OSError, KeyError, ValueError, RuntimeError):
    raise _damaged(path, ".h5 file") from None


def _text(name: Any) -> str:
  return name.decode() if isinstance(name, bytes) else str(name)


def _kind(weight: str) -> str:
  """`conv1/kernel:0` and the old `conv1_W_1:0` -> `kernel`."""
  last = weight.split("/")[-1].split(":")[0]
  parts = last.split("_")
  old = [{"W": "kernel", "b": "bias"}[part] for part in parts[1:] if part in ("W", "b")]
  return old[0] if old else last


READERS: dict[str, Callable[[pathlib.Path], Arrays]] = {
  ".pth": read_torch,
  ".pt": read_torch,
  ".tar": read_torch,  # "NAME.pth.tar" is no tar
  ".safetensors": read_safetensors,
  ".npz": read_npz,
  ".h5": read_keras,
}
