import contextlib
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from scipy.io import savemat
from scipy.sparse import csc_matrix

from errseg_jax.data.label_files import read_grid, read_mat
from errseg_jax.errors import UserError

VALUES = np.arange(-3, 39).reshape(6, 7)


def message(read, path, *args):
  with pytest.raises(UserError) as caught:
    read(path, *args)
  text = str(caught.value)
  assert "\n" not in text
  assert text.startswith(f"{path}: ")
  return text


def mat(**variables):
  """Bytes of a MAT file of version 5, unpacked."""
  stream = io.BytesIO()
  savemat(stream, variables)
  return stream.getvalue()


def damaged(path, content):
  path.write_bytes(content)
  return message(read_mat, path)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", ["int8", "int16", "int64", "float32", "float64"])
def test_a_matrix_is_read_whatever_its_numbers_are(tmp_path, kind, packed):
  names = np.array([["void", "sky"]], object)
  variables = {"names": names, "S": VALUES.astype(kind), "T": VALUES + 1}
  savemat(tmp_path / "a.mat", variables, do_compression=packed)
  found = read_mat(tmp_path / "a.mat")
  assert found.dtype == np.int32
  np.testing.assert_array_equal(found, VALUES)
  np.testing.assert_array_equal(read_mat(tmp_path / "a.mat", "T"), VALUES + 1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 2)])
def test_small_matrices_stand_within_their_tag(tmp_path, shape):
  values = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
  savemat(tmp_path / "a.mat", {"S": values})
  np.testing.assert_array_equal(read_mat(tmp_path / "a.mat"), values)


def test_a_file_of_another_byte_order_is_read(tmp_path):
  def part(kind, data):
    return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)

  # Class int16, name S in a tag of its own: kind and length of 16 bits, then the letter.
  matrix = part(6, struct.pack(">II", 10, 0)) + part(5, struct.pack(">ii", *VALUES.shape))
  matrix += struct.pack(">HH4s", 1, 1, b"S") + part(3, VALUES.astype(">i2").tobytes("F"))
  (tmp_path / "a.mat").write_bytes(b" " * 124 + b"\1\0MI" + part(14, matrix))
  np.testing.assert_array_equal(read_mat(tmp_path / "a.mat"), VALUES)


@pytest.mark.parametrize(
  ("variables", "words"),
  [
    ({"T": VALUES}, "no matrix S but 'T'"),
    ({}, "no matrix S but nothing"),
    ({"S": "text"}, "not a matrix"),
    ({"S": np.array([["b", "a"]], object)}, "not a matrix"),
    ({"S": {"field": 1}}, "not a matrix"),
    ({"S": VALUES + 1j}, "not a matrix"),
    ({"S": VALUES[None]}, "not a matrix"),
    ({"S": np.zeros((0, 4))}, "not a matrix"),
    ({"S": VALUES + 0.5}, "-2.5 is no whole number"),
    ({"S": np.array([[1, np.nan]])}, "nan is no whole number"),
    ({"S": np.array([[1, -np.inf]])}, "-inf is no whole number"),
    ({"S": np.array([[1, 2**32 + 5]], np.uint64)}, "4294967301 is no whole number"),
  ],
)
def test_what_is_no_matrix_of_whole_numbers_is_refused(tmp_path, variables, words):
  savemat(tmp_path / "a.mat", variables, do_compression=True)
  assert words in message(read_mat, tmp_path / "a.mat")


def test_files_of_other_kinds_are_named_for_what_they_are(tmp_path):
  path = tmp_path / "a.mat"
  content = mat(S=VALUES)
  assert "no such file" in message(read_mat, path)
  assert "version 7.3 (HDF5); save it with" in damaged(path, content[:124] + b"\0\2IM" + content[128:])
  savemat(path, {"S": VALUES}, format="4")
  assert "no MAT file of version 5" in message(read_mat, path)
  for other in (b"", b"hello", b"\x89HDF\r\n\x1a\n" + bytes(200), content[:127]):
    assert "no MAT file of version 5" in damaged(path, other)
  assert "holds no matrix S but nothing" in damaged(path, content[:128])


def test_a_variable_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path, monkeypatch):
  monkeypatch.setattr("errseg_jax.data.label_files._LARGEST", 1000)
  matrix = mat(S=np.zeros((40, 40)))
  packed = zlib.compress(matrix[128:])
  assert len(packed) < 200
  text = damaged(tmp_path / "a.mat", matrix[:128] + struct.pack("<II", 15, len(packed)) + packed)
  assert "too large" in text


def test_a_claimed_size_that_the_file_has_no_bytes_for_is_refused(tmp_path):
  content = mat(S=VALUES)
  sizes = content.index(struct.pack("<ii", *VALUES.shape))
  for claimed in ((6, 8), (1 << 30, 1 << 30), (-6, -7)):
    changed = content[:sizes] + struct.pack("<ii", *claimed) + content[sizes + 8 :]
    assert "a.mat: " in damaged(tmp_path / "a.mat", changed)


def test_a_part_that_claims_more_bytes_than_there_are_is_refused(tmp_path):
  content, size = mat(S=VALUES.astype(np.int64)), VALUES.size * 8
  tag = struct.pack("<II", 12, size)
  assert content.count(tag) == 1
  assert "a part of a variable is cut short" in damaged(
    tmp_path / "a.mat", content.replace(tag, struct.pack("<II", 12, size + 8))
  )


@pytest.mark.parametrize("packed", [True, False])
def test_damaged_bytes_are_a_user_error_or_a_matrix(tmp_path, packed):
  rng, path = np.random.default_rng(0), tmp_path / "a.mat"
  savemat(
    path, {"names": np.array([["a", "bc"]], object), "S": VALUES.astype(np.uint8)}, do_compression=packed
  )
  content, shapes = path.read_bytes(), []
  for _ in range(300):
    changed = np.frombuffer(content, np.uint8).copy()
    changed[rng.integers(124, len(changed), 3)] = rng.integers(256, size=3)
    path.write_bytes(changed[: rng.integers(124, 2 * len(changed))].tobytes())
    with contextlib.suppress(UserError):
      shapes.append(read_mat(path).shape)
  assert len(shapes) < 200
  assert all(len(shape) == 2 for shape in shapes)


@pytest.mark.parametrize("end", ["\n", "\r\n", " \n", "\n\n"])
def test_a_grid_is_read_row_by_row(tmp_path, end):
  path = tmp_path / "a.txt"
  path.write_text(end.join(" ".join(map(str, row)) for row in VALUES) + end, newline="")
  found = read_grid(path)
  assert found.dtype == np.int32
  np.testing.assert_array_equal(found, VALUES)
  path.write_text("7\n")
  assert read_grid(path).shape == (1, 1)


@pytest.mark.parametrize(
  ("content", "words"),
  [
    (b"", "is empty"),
    (b" \n\n", "is empty"),
    (b"1 2 3\n4 5\n", "columns changed from 3 to 2"),
    (b"1 2\n3 x\n", "b'x'"),
    (b"1 2\n3 4.0\n", "b'.'"),
    (b"1 nan\n", "b'nan'"),
    (b"1 1_0\n", "b'_'"),
    (b"1 2 # 3\n", "b'#'"),
    (b"1 - 2\n", "no grid of whole numbers"),
    (b"1 99999999999\n", "no grid of whole numbers"),
    ("1 2".encode("utf-16"), "belongs to no whole number"),
  ],
)
def test_a_grid_that_is_none_is_refused(tmp_path, content, words):
  (tmp_path / "a.txt").write_bytes(content)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert words in message(read_grid, tmp_path / "a.txt")


def test_a_missing_grid_is_named(tmp_path):
  assert "no such file" in message(read_grid, tmp_path / "a.txt")


def annotation(values):
  """A struct as SBD has it: boundaries of each class as sparse matrices in cells, the class map, classes present."""
  edges = np.empty((3, 1), object)
  for k in range(3):
    edges[k, 0] = csc_matrix(np.eye(4))
  return {
    "Boundaries": edges,
    "Segmentation": values.astype(np.uint8),
    "CategoriesPresent": np.array([[1.0], [7.0]]),
  }


@pytest.mark.parametrize("packed", [True, False])
def test_a_matrix_in_a_struct_is_read(tmp_path, packed):
  values = VALUES % 21
  savemat(tmp_path / "a.mat", {"other": 1.0, "GTcls": annotation(values)}, do_compression=packed)
  np.testing.assert_array_equal(read_mat(tmp_path / "a.mat", "GTcls", "Segmentation"), values)
  np.testing.assert_array_equal(read_mat(tmp_path / "a.mat", "GTcls", "CategoriesPresent"), [[1], [7]])


def test_a_struct_without_what_is_wanted_is_told(tmp_path):
  path = tmp_path / "a.mat"
  savemat(path, {"GTcls": annotation(VALUES % 21), "S": VALUES})
  assert "no field 'Instances'" in message(read_mat, path, "GTcls", "Instances")
  assert "GTcls.Boundaries is not a matrix" in message(read_mat, path, "GTcls", "Boundaries")
  assert "S is not a struct" in message(read_mat, path, "S", "Segmentation")
  assert "GTcls is not a matrix" in message(read_mat, path, "GTcls")


def test_a_damaged_struct_is_an_error_or_read_right(tmp_path):
  path, values = tmp_path / "a.mat", VALUES % 21
  savemat(path, {"GTcls": annotation(values)})
  content, rng = path.read_bytes(), np.random.default_rng(0)
  for at in rng.integers(0, len(content), 300):
    broken = bytearray(content)
    broken[at] ^= int(rng.integers(1, 256))
    path.write_bytes(bytes(broken))
    with contextlib.suppress(UserError):
      assert read_mat(path, "GTcls", "Segmentation").ndim == 2
  for end in range(0, len(content), 7):
    path.write_bytes(content[:end])
    with contextlib.suppress(UserError):
      np.testing.assert_array_equal(read_mat(path, "GTcls", "Segmentation"), values)
