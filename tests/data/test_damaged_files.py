"""Damaged files: every reader gives an array or one line that names the file, whatever the bytes are."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from errseg_jax.data.datasets.camvid_original import COLOURS, read_colours
from errseg_jax.data.datasets.listing import read_list
from errseg_jax.data.images import image_size, read_image, read_label
from errseg_jax.data.label_files import read_grid
from errseg_jax.errors import UserError

ROUNDS = 150  # of each kind of damage


def picture(mode, kind, **options):
  rng = np.random.default_rng(0)
  values = np.repeat(np.repeat(rng.integers(0, 256, (9, 11, 3), np.uint8), 4, 0), 4, 1)
  stream, image = io.BytesIO(), Image.fromarray(values).convert(mode)
  image.save(stream, format=kind, **options)
  return stream.getvalue()


def label(kind):
  stream = io.BytesIO()
  Image.fromarray((np.indices((36, 44)).sum(0) % 5).astype(np.uint8)).save(stream, format=kind)
  return stream.getvalue()


def with_exif():
  """Half of the file is the EXIF block."""
  exif = Image.Exif()
  exif[0x0112], exif[0x010E], exif[0x9286] = 6, "a description " * 20, b"note" * 50
  exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 12.5), 29: "2026:01:01"})
  return picture("RGB", "JPEG", exif=exif)


def colours():
  stream = io.BytesIO()
  index = np.indices((36, 44)).sum(0) % len(COLOURS)
  Image.fromarray(np.array(COLOURS, np.uint8)[index]).save(stream, format="PNG")
  return stream.getvalue()


FILES = {
  "a.jpg": (read_image, picture("RGB", "JPEG")),
  "progressive.jpg": (read_image, picture("RGB", "JPEG", progressive=True)),
  "cmyk.jpg": (read_image, picture("CMYK", "JPEG")),
  "exif.jpg": (read_image, with_exif()),
  "exif_size.jpg": (lambda path: np.zeros(image_size(path)), with_exif()),
  "a.png": (read_image, picture("RGB", "PNG")),
  "palette.png": (read_image, picture("P", "PNG")),
  "a.tif": (read_image, picture("RGB", "TIFF")),
  "packed.tif": (read_image, picture("RGB", "TIFF", compression="tiff_lzw")),
  "a.bmp": (read_image, picture("RGB", "BMP")),
  "label.png": (read_label, label("PNG")),
  "label.tif": (read_label, label("TIFF")),
  "colours.png": (read_colours, colours()),
  "grid.txt": (read_grid, b"\n".join(b"0 1 2 -1 %d" % k for k in range(30))),
  "size.png": (lambda path: np.zeros(image_size(path)[:1]), picture("RGB", "PNG")),
}


def damaged(content, rng):
  """One of: cut short, bits flipped, a stretch of zeros, a stretch repeated, the beginning replaced."""
  kind, out = int(rng.integers(5)), bytearray(content)
  at, length = int(rng.integers(len(out))), int(rng.integers(1, 40))
  if kind == 0:
    del out[at:]
  elif kind == 1:
    for place in rng.integers(0, len(out), 3):
      out[place] ^= int(rng.integers(1, 256))
  elif kind == 2:
    out[at : at + length] = bytes(length)
  elif kind == 3:
    out[at:at] = out[at : at + length]
  else:
    out[:8] = rng.integers(0, 256, 8, np.uint8).tobytes()
  return bytes(out)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_read_or_told(tmp_path, name):
  read, content = FILES[name]
  path, rng, told = tmp_path / name, np.random.default_rng(0), []
  path.write_bytes(content)
  read(str(path))
  for _ in range(ROUNDS):
    path.write_bytes(damaged(content, rng))
    try:
      assert read(str(path)).size < 10**8
    except UserError as error:
      told.append(str(error))
  assert len(told) > 10
  assert all(name in line and "\n" not in line for line in told)


def chunk(kind, data):
  return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("read", [read_image, read_label])
def test_a_few_bytes_do_not_unpack_to_all_memory(tmp_path, read):
  """A PNG of some hundred bytes that says it is 60000 pixels wide and high."""
  header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
  content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10**6)))
  path = tmp_path / "bomb.png"
  path.write_bytes(content + chunk(b"IEND", b""))
  with pytest.raises(UserError, match=r"bomb\.png: cannot be decoded"):
    read(path)


def test_a_damaged_list_is_told_line_by_line(tmp_path):
  content = "".join(f"images/{k}.jpg labels/{k}.png\n" for k in range(20)).encode()
  (tmp_path / "images").mkdir()
  (tmp_path / "labels").mkdir()
  for k in range(20):
    (tmp_path / f"images/{k}.jpg").touch()
    (tmp_path / f"labels/{k}.png").touch()
  rng = np.random.default_rng(0)
  for _ in range(ROUNDS):
    (tmp_path / "train.txt").write_bytes(damaged(content, rng))
    try:
      rows, problems = read_list(tmp_path / "train.txt", tmp_path.joinpath)
    except UserError as error:
      problems, rows = (str(error),), []
    assert len(rows) <= 20 + 3
    assert all(str(tmp_path) in line and "\n" not in line for line in problems)
