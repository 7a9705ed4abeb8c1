"""Runs a network that `errseg export` wrote. It wants jax, flatbuffers and numpy, and nothing else.

python example.py IMAGE.npy ...        # uint8 [H, W, 3], RGB; writes IMAGE.npz

model = Model("DIR")
out = model.predict(image)             # {"labels", "semantic_labels", "detail_labels", "error_probability"}
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

DTYPES = {
  **{"F16": np.float16, "F32": np.float32, "BF16": jnp.bfloat16, "BOOL": np.bool_},
  **{"I8": np.int8, "I16": np.int16, "I32": np.int32, "U8": np.uint8, "U16": np.uint16, "U32": np.uint32},
}


def read_safetensors(content: bytes) -> dict[str, np.ndarray]:
  """The arrays of a safetensors file: the length of a JSON header in 8 bytes, the header, the arrays' bytes."""
  start = 8 + int.from_bytes(content[:8], "little")
  arrays = {}
  for name, entry in json.loads(content[8:start]).items():
    if name == "__metadata__":
      continue
    first, end = entry["data_offsets"]
    flat = np.frombuffer(content[start + first : start + end], DTYPES[entry["dtype"]])
    arrays[name] = flat.reshape(entry["shape"])
  return arrays


class Model:
  """An exported network.

  Args:
    folder: that `errseg export` wrote.

  Raises:
    ValueError: a file is not the one that was written.
  """

  def __init__(self, folder: str | pathlib.Path):
    self.folder = pathlib.Path(folder)
    self.card = json.loads((self.folder / "card.json").read_text())
    content = self.read(self.card["weights"])
    self.weights = jax.tree.map(jnp.asarray, read_safetensors(content))
    self.programs: dict[tuple[int, int], Callable[..., Any]] = {}

  def read(self, entry: dict[str, Any]) -> bytes:
    """The bytes of a file of the card, checked."""
    content = (self.folder / entry["file"]).read_bytes()
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
      raise ValueError(f"{self.folder / entry['file']} is not the file that was exported: copy it again")
    return content

  def program(self, size: tuple[int, int]) -> Callable[..., Any]:
    """(weights, images uint8 [b, *size, 3]) -> maps [b, *size] by name; compiled once for each b.

    Raises:
      ValueError: there is none for that size.
    """
    if size not in self.programs:
      found = [entry for entry in self.card["programs"] if tuple(entry["size"]) == size]
      if not found:
        known = ", ".join("x".join(map(str, entry["size"])) for entry in self.card["programs"])
        raise ValueError(
          f"no program for images of {size[0]}x{size[1]}; there are {known}: export this size too"
        )
      self.programs[size] = jax.jit(export.deserialize(bytearray(self.read(found[0]))).call)
    return self.programs[size]

  def padded_size(self, height: int, width: int) -> tuple[int, int]:
    """The size that an image is padded to."""
    multiple, more = self.card["padding"]["multiple"], self.card["padding"]["remainder"]
    height, width = (-(-(n - more) // multiple) * multiple + more for n in (height, width))
    return height, width

  def predict_batch(self, images: np.ndarray) -> dict[str, np.ndarray]:
    """Maps [b, H, W] of images uint8 [b, H, W, 3] of one size, RGB."""
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
      raise ValueError(f"images are uint8 [b, H, W, 3], and these are {images.dtype} {images.shape}")
    batch, height, width, _ = images.shape
    size = self.padded_size(height, width)
    padded = np.empty((batch, *size, 3), np.uint8)
    padded[:] = np.array(self.card["padding"]["value"], np.uint8)
    padded[:, :height, :width] = images
    out = jax.device_get(self.program(size)(self.weights, padded))
    return {name: whole[:, :height, :width] for name, whole in out.items()}

  def predict(self, image: np.ndarray) -> dict[str, np.ndarray]:
    """Maps [H, W] of an image uint8 [H, W, 3], RGB."""
    return {name: maps[0] for name, maps in self.predict_batch(np.asarray(image)[None]).items()}


def main() -> None:
  """Labels the images that the command line names."""
  if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
    sys.exit(f"usage: python {sys.argv[0]} IMAGE.npy ...      (uint8 [H, W, 3], RGB; writes IMAGE.npz)")
  model = Model(pathlib.Path(__file__).parent)
  for path in map(pathlib.Path, sys.argv[1:]):
    out = model.predict(np.load(path, allow_pickle=False))
    np.savez_compressed(path.with_suffix(".npz"), allow_pickle=False, **out)
    wrong = 100 * float(out["error_probability"].mean())
    print(f"{path.with_suffix('.npz')}: {wrong:.2f} % of the pixels are wrong, it expects")


if __name__ == "__main__":
  main()
