"""Label maps in files that are no images: MATLAB matrices and grids of numbers in text.

What is read is int32 and not yet checked against any classes: -1 is a value here as any other.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from errseg_jax.errors import UserError

Path = str | os.PathLike[str]
_HEADER = 128  # bytes before the first variable of a MAT file of version 5
_MATRIX, _PACKED = 14, 15  # kinds of the variables after it
_LARGEST = 1 << 28  # bytes; a variable that unpacks to more is no label map
_ORDERS = {b"IM": "<", b"MI": ">"}
_KINDS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
# Classes of a variable: double, single, integers of 8 to 64 bits. Below are cells, structs, text, sparse matrices.
_NUMERIC = range(6, 16)
_STRUCT = 2
_COMPLEX = 0x800
_AGAIN = "take the file anew from the data set's archive"


class _Part(NamedTuple):
  """A stretch of a variable: what its bytes are, the bytes, and where the next part begins."""

  kind: int
  data: bytes
  end: int


def read_mat(path: Path, key: str = "S", field: str = "") -> np.ndarray:
  """Reads a matrix of whole numbers from a MAT file of version 5 (MATLAB's -v6 and -v7).

  It is read here and not by `scipy.io.loadmat`, which some damaged files make crash the whole process.

  Args:
    path: the file. Of its variables, all but `key` are passed over.
    key: name of the matrix, or of a struct that holds it.
    field: of that struct; "" where the variable is the matrix itself.

  Returns:
    int32 [H, W].

  Raises:
    UserError: the file is missing, damaged or of another version, or has no such matrix.

  Source: "MAT-File Format", MathWorks, chapter 1 (level 5).
  """
  try:
    with open(path, "rb") as file:
      values = _variable(path, file, key, field)
  except FileNotFoundError:
    raise UserError(f"{path}: no such file; check data.root") from None
  except (OSError, ValueError, TypeError, struct.error, zlib.error) as error:
    reason = " ".join(str(error).split())
    raise UserError(f"{path}: is a damaged MAT file ({reason}); {_AGAIN}") from None
  return _whole(path, values)


def _variable(path: Path, file: BinaryIO, key: str, field: str) -> np.ndarray:
  header = file.read(_HEADER)
  order = _ORDERS.get(header[126:128], "")
  version = struct.unpack(f"{order}H", header[124:126])[0] >> 8 if order else 0
  if version == 2:
    raise UserError(f"{path}: is a MAT file of version 7.3 (HDF5); save it with MATLAB's -v7, or {_AGAIN}")
  if version != 1:
    raise UserError(f"{path}: is no MAT file of version 5; {_AGAIN}")
  found = []
  for matrix in _matrices(file, order):
    flags, size, name = _opening(matrix, order)
    found.append(name.data.decode("latin1"))
    if found[-1] == key:
      whole = f"{key}.{field}" if field else key
      if field:
        matrix = _field(path, matrix, order, key, field)
        flags, size, name = _opening(matrix, order)
      (word,), shape = struct.unpack_from(f"{order}I", flags.data), _numbers(size, order).tolist()
      if word & 0xFF not in _NUMERIC or word & _COMPLEX or len(shape) != 2 or min(shape) < 1:
        raise UserError(f"{path}: {whole} is not a matrix of real numbers; {_AGAIN}")
      # MATLAB stores columns one after another, and numbers in the smallest kind that holds them all.
      return _numbers(_part(matrix, name.end, order), order).reshape(shape, order="F")
  raise UserError(f"{path}: holds no matrix {key} but {', '.join(map(repr, found)) or 'nothing'}; {_AGAIN}")


def _opening(matrix: bytes, order: str) -> tuple[_Part, _Part, _Part]:
  """Flags, size and name of a variable; what it holds begins behind the last."""
  flags = _part(matrix, 8, order)
  size = _part(matrix, flags.end, order)
  return flags, size, _part(matrix, size.end, order)


def _field(path: Path, matrix: bytes, order: str, key: str, field: str) -> bytes:
  """The variable in a field of a struct of one entry, with its own tag."""
  flags, size, name = _opening(matrix, order)
  (word,) = struct.unpack_from(f"{order}I", flags.data)
  if word & 0xFF != _STRUCT or _numbers(size, order).tolist() != [1, 1]:
    raise UserError(f"{path}: {key} is not a struct of one entry; {_AGAIN}")
  width = _part(matrix, name.end, order)
  (length,) = struct.unpack_from(f"{order}i", width.data)
  names = _part(matrix, width.end, order)
  if length < 1:
    raise ValueError("names of no length")
  at = names.end
  for start in range(0, len(names.data), length):
    if len(inner := matrix[at : at + 8]) < 8:
      raise ValueError("a field is cut short")
    kind, count = struct.unpack(f"{order}II", inner)
    if kind != _MATRIX or len(matrix) < at + 8 + count:
      raise ValueError("a field is cut short or of no known kind")
    if names.data[start : start + length].split(b"\0")[0] == field.encode():
      return matrix[at : at + 8 + count]
    at += 8 + count
  raise UserError(f"{path}: {key} has no field {field!r}; {_AGAIN}")


def _matrices(file: BinaryIO, order: str) -> Iterator[bytes]:
  """The variables of a file one by one, each unpacked and with its own tag of 8 bytes."""
  while tag := file.read(8):
    kind, size = struct.unpack(f"{order}II", tag)
    matrix = tag + file.read(size)
    if kind == _PACKED:
      # A few bytes could unpack to any number of them.
      matrix = zlib.decompressobj().decompress(matrix[8:], _LARGEST)
      kind, size = struct.unpack_from(f"{order}II", matrix)
    if kind != _MATRIX or len(matrix) < 8 + size:
      raise ValueError("a variable is cut short, too large or of no known kind")
    yield matrix[: 8 + size]


def _part(matrix: bytes, at: int, order: str) -> _Part:
  kind, size = struct.unpack_from(f"{order}II", matrix, at)
  start, end = at + 8, at + 8 + size + -size % 8
  if kind >> 16:  # up to 4 bytes stand within the tag
    kind, size, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
  data = matrix[start : start + size]
  if len(data) < size or start + size > end:
    raise ValueError("a part of a variable is cut short")
  return _Part(kind, data, end)


def _numbers(part: _Part, order: str) -> np.ndarray:
  if part.kind not in _KINDS:
    raise ValueError(f"numbers of unknown kind {part.kind}")
  return np.frombuffer(part.data, order + _KINDS[part.kind])


def read_grid(path: Path) -> np.ndarray:
  """Reads a text file of whole numbers: a line for each row, spaces between the columns.

  Args:
    path: the file; empty lines are passed over.

  Returns:
    int32 [H, W].

  Raises:
    UserError: the file is missing or empty, a row is longer than another, or something is no whole number.
  """
  try:
    with open(path, "rb") as file:
      content = file.read()
  except FileNotFoundError:
    raise UserError(f"{path}: no such file; check data.root") from None
  # numpy before 2 takes 3.7 for 3.
  if other := content.translate(None, b"0123456789+- \t\r\n"):
    raise UserError(f"{path}: holds {other[:10]!r}, which belongs to no whole number; {_AGAIN}")
  if not content.strip():
    raise UserError(f"{path}: is empty; {_AGAIN}")
  try:
    return np.loadtxt(io.BytesIO(content), np.int32, comments=None, ndmin=2)
  except ValueError as error:
    reason = str(error).partition(";")[0]
    raise UserError(f"{path}: is no grid of whole numbers ({reason}); {_AGAIN}") from None


def _whole(path: Path, values: np.ndarray) -> np.ndarray:
  """int32 of real numbers, where nothing is lost by it."""
  with np.errstate(invalid="ignore"):
    whole = values.astype(np.int32)
  if (bad := values[whole != values]).size:
    raise UserError(f"{path}: label value {bad.flat[0]} is no whole number of 32 bits; {_AGAIN}")
  return whole
