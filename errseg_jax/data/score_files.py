"""Files of class scores that a network left for an image: .npy, .npz, PNG, TIFF.

| file | holds |
|---|---|
| .npy; .npz with one array | [h, w, C], float or unsigned integers |
| .npz with `classes` and `scores` | the likeliest K classes of each pixel and their probabilities, both [h, w, K] |
| .npz with `codes` | what `errseg data extract` writes: codes of `data.scores` |
| PNG | 8 bits [h, w, C] of up to four classes; or grey [C h, w], the classes one below the other |
| TIFF | [h, w, C], or a class a page |

Unsigned integers are shares of their largest value. Two classes may have one map, of class 1.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import math
import pathlib
import zipfile
from typing import IO

import numpy as np
from PIL import Image

from errseg_jax.data.scores import at_size, encode
from errseg_jax.errors import BadFile, UserError

SUFFIXES = (".npy", ".npz", ".png", ".tif", ".tiff")
VALUES = ("probabilities", "logits")
TOLERANCE = 2 / 255  # of a class's probability
_LEAST = 1e-7  # probability


@dataclasses.dataclass(frozen=True)
class ScoreFormat:
  """What the numbers in score files are.

  Attributes:
    values: "probabilities" or "logits".
    channels_first: arrays are [C, h, w].
    align_corners: whether the corner pixels of a smaller map lie on those of the image.
  """

  values: str = "probabilities"
  channels_first: bool = False
  align_corners: bool = False

  def __post_init__(self):
    if self.values not in VALUES:
      raise UserError(f"config.segmenter.adapter.values={self.values!r}: known are {', '.join(VALUES)}")


def read_scores(
  path: pathlib.Path, size: tuple[int, int], num_classes: int, kind: ScoreFormat = ScoreFormat()
) -> np.ndarray:
  """The codes of an image's scores.

  Args:
    path: of the file.
    size: (height, width) of the image as its file is.
    num_classes: C.
    kind: what its numbers are.

  Returns:
    uint8 [h, w, C], `data.scores.encode`, at the file's resolution; at the image's where corners are aligned.

  Raises:
    UserError: no such file, a damaged one, or one that fits neither the image nor the classes.
  """
  arrays = _stored(path, math.prod(size) * num_classes * 8)
  if kind.channels_first:
    arrays = {name: np.moveaxis(array, 0, -1) if array.ndim == 3 else array for name, array in arrays.items()}
  if "codes" in arrays:
    codes = _checked(path, arrays["codes"], size, num_classes)
    if codes.dtype != np.uint8:
      raise BadFile(
        "scores", f"{path}: its codes are {codes.dtype}, not uint8; write it anew with `errseg data extract`"
      )
  elif "classes" in arrays:
    codes = encode(np.log(_spread(path, arrays, size, num_classes, kind)))
  else:
    (array,) = arrays.values()
    codes = encode(_logits(path, _checked(path, array, size, num_classes), num_classes, kind))
  return at_size(codes, size, True) if kind.align_corners else codes


def _checked(path: pathlib.Path, array: np.ndarray, size: tuple[int, int], depth: int) -> np.ndarray:
  """An array [h, w, depth] that fits the image; that of one class of two as [h, w, 1].

  Raises:
    UserError: it does not.
  """
  if array.ndim == 2:
    stacked = array.shape[0] % depth == 0 and _fits((array.shape[0] // depth, array.shape[1]), size)
    array = array.reshape(depth, -1, array.shape[1]).transpose(1, 2, 0) if stacked else array[..., None]
  if array.ndim != 3 or (array.shape[2] != depth and (depth, array.shape[2]) != (2, 1)):
    hint = "; with the classes first set segmenter.adapter.channels_first" if array.shape[0] == depth else ""
    raise BadFile(
      "scores",
      f"{path}: holds scores of shape {array.shape}, and {depth} classes are wanted: [h, w, {depth}]{hint}",
    )
  if not _fits(array.shape[:2], size):
    raise BadFile(
      "scores",
      f"{path}: its scores are {array.shape[1]}x{array.shape[0]} (width x height), which is no copy of an image "
      f"of {size[1]}x{size[0]}; save them at the image's size or at a part of it",
    )
  if not np.isfinite(array).all():
    raise BadFile(
      "scores", f"{path}: holds values that are no finite numbers; find out where the network gives NaN"
    )
  return array


def _fits(own: tuple[int, ...], image: tuple[int, int]) -> bool:
  """Whether a map can be the image's, at its resolution or a lower one, to a pixel."""
  smaller = own[0] <= image[0] and own[1] <= image[1]
  return smaller and abs(own[0] * image[1] - own[1] * image[0]) <= max(image)


def _logits(path: pathlib.Path, array: np.ndarray, num_classes: int, kind: ScoreFormat) -> np.ndarray:
  """float32 [h, w, C] of what a file holds of all classes, or of class 1 of two."""
  if kind.values == "logits":
    if array.dtype.kind != "f":
      raise BadFile(
        "scores",
        f"{path}: holds {array.dtype}, and logits are floating-point numbers; set segmenter.adapter.values",
      )
    z = array.astype(np.float32)
    return np.concatenate([np.zeros_like(z), z], -1) if z.shape[2] < num_classes else z
  p = _probabilities(path, array)
  if p.shape[2] < num_classes:
    p = np.concatenate([1 - p, p], -1)
  elif (worst := np.abs(p.sum(-1) - 1).max()) > TOLERANCE * num_classes:
    raise BadFile(
      "scores",
      f"{path}: its probabilities do not add up to 1 (off by {worst:.3g}); of logits set segmenter.adapter.values",
    )
  return np.log(np.maximum(p, _least(array.dtype, num_classes)))


def _probabilities(path: pathlib.Path, array: np.ndarray) -> np.ndarray:
  """float32 in 0..1."""
  if array.dtype.kind == "u":
    return array.astype(np.float32) / np.iinfo(array.dtype).max
  p = array.astype(np.float32)
  if array.dtype.kind != "f" or p.min() < -TOLERANCE or p.max() > 1 + TOLERANCE:
    raise BadFile(
      "scores",
      f"{path}: holds {array.dtype} from {p.min():.3g} to {p.max():.3g}, which are no probabilities; of logits set "
      "segmenter.adapter.values",
    )
  return p


def _least(dtype: np.dtype, num_classes: int) -> float:
  """Of a class whose probability is stored as 0: all of them together are less than a step."""
  return 1 / (np.iinfo(dtype).max * num_classes) if dtype.kind == "u" else _LEAST


def _spread(
  path: pathlib.Path,
  arrays: dict[str, np.ndarray],
  size: tuple[int, int],
  num_classes: int,
  kind: ScoreFormat,
) -> np.ndarray:
  """Probabilities float32 [h, w, C]: those of the likeliest classes, and the rest spread evenly over the others."""
  classes, scores = arrays["classes"], arrays.get("scores")
  if kind.values != "probabilities":
    raise BadFile("scores", f"{path}: the likeliest classes alone want probabilities, not {kind.values}")
  if scores is None or classes.ndim != 3 or classes.shape != scores.shape or classes.dtype.kind not in "iu":
    raise BadFile("scores", f"{path}: `classes` (integers) and `scores` must both be [h, w, K]")
  count = classes.shape[2]
  ordered = np.sort(classes, -1)
  if (
    count > num_classes
    or classes.min() < 0
    or classes.max() >= num_classes
    or (ordered[..., 1:] == ordered[..., :-1]).any()
  ):
    raise BadFile("scores", f"{path}: `classes` must be different ones of 0..{num_classes - 1} at each pixel")
  p = _probabilities(path, _checked(path, scores, size, count))
  rest = 1 - p.sum(-1, keepdims=True)
  if rest.min() < -TOLERANCE * count or (count == num_classes and rest.max() > TOLERANCE * count):
    raise BadFile("scores", f"{path}: its probabilities do not add up to 1 (off by {np.abs(rest).max():.3g})")
  least = _least(scores.dtype, num_classes)
  whole = np.repeat(np.maximum(rest / max(num_classes - count, 1), least), num_classes, -1)
  np.put_along_axis(whole, classes.astype(np.int64), np.maximum(p, least), -1)
  return whole


def _stored(path: pathlib.Path, most: int) -> dict[str, np.ndarray]:
  """The arrays of a file by name; "" of one without names.

  Args:
    path: of the file.
    most: bytes that an array may have.
  """
  readers = {".npy": _npy, ".npz": _npz, ".png": _png, ".tif": _tiff, ".tiff": _tiff}
  try:
    with path.open("rb") as file:
      arrays = readers[path.suffix.lower()](file, most)
    if not all(array.size for array in arrays.values()):
      raise ValueError("it holds nothing")
    return arrays
  except FileNotFoundError:
    raise BadFile("scores", f"{path}: no such file") from None
  except Exception as error:  # of whichever reader, at bytes of anyone
    reason = " ".join(str(error).split())[:200]
    raise BadFile("scores", f"{path}: cannot be read as scores ({reason}); write it anew") from None


def _npy(file: IO[bytes], most: int) -> dict[str, np.ndarray]:
  return {"": _array(file, most)}


def _array(file: IO[bytes], most: int) -> np.ndarray:
  """What `np.load` reads, of no more than `most` bytes and without objects."""
  version = np.lib.format.read_magic(file)
  headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
  if version not in headers:
    raise ValueError(f"a .npy file of version {version}")
  shape, by_columns, dtype = headers[version](file)
  size = math.prod(shape) * dtype.itemsize
  if dtype.kind not in "fui" or not shape or min(shape) < 1 or size > most:
    raise ValueError(f"an array of {dtype} and shape {shape}")
  content = file.read(size)
  if len(content) < size:
    raise ValueError("it is cut short")
  return np.frombuffer(content, dtype).reshape(shape, order="F" if by_columns else "C")


def _npz(file: IO[bytes], most: int) -> dict[str, np.ndarray]:
  with zipfile.ZipFile(file) as archive:
    names = {name.removesuffix(".npy"): name for name in archive.namelist()}
    wanted = next((keys for keys in (("codes",), ("classes", "scores")) if {*keys} <= {*names}), tuple(names))
    if len(wanted) > 1 and wanted != ("classes", "scores"):
      raise ValueError(
        f"it holds {', '.join(sorted(names)[:5])}: one array is wanted, or `classes` and `scores`"
      )
    found = {}
    for key in wanted:
      with archive.open(names[key]) as member:
        found[key] = _array(member, most)
    if not found:
      raise ValueError("it holds no array")
    return found


def _png(file: IO[bytes], most: int) -> dict[str, np.ndarray]:
  with Image.open(io.BytesIO(file.read())) as image:
    if image.mode not in ("L", "LA", "RGB", "RGBA", "I;16"):
      raise ValueError(f"an image of mode {image.mode}")
    if math.prod(image.size) * len(image.getbands()) > most:
      raise ValueError(f"an image of {image.size[0]}x{image.size[1]}")
    return {"": np.asarray(image)}


def _tiff(file: IO[bytes], most: int) -> dict[str, np.ndarray]:
  import tifffile  # here, as few need it

  logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it finds odd is told in one line
  with tifffile.TiffFile(io.BytesIO(file.read())) as tiff:
    (series,) = tiff.series
    if series.dtype.kind not in "fu" or math.prod(series.shape) * series.dtype.itemsize > most:
      raise ValueError(f"{series.dtype} of shape {series.shape}")
    array = series.asarray()
  planes = array.ndim == 3 and series.axes[0] not in "YX"
  return {"": np.moveaxis(array, 0, -1) if planes else array}
