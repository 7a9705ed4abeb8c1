import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from errseg_jax.data.images import image_size, read_image, read_label, write_label_png, write_png
from errseg_jax.errors import UserError


def test_a_truncated_jpeg_is_refused_by_name(tmp_path):
  path = tmp_path / "cut.jpg"
  noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  Image.fromarray(noise).save(path)
  path.write_bytes(path.read_bytes()[:-2000])
  with pytest.raises(UserError, match=r"cut\.jpg.*truncated"):
    read_image(path)


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_a_file_that_is_no_image_is_refused_by_name(tmp_path, content):
  path = tmp_path / "note.png"
  path.write_bytes(content)
  for read in (read_image, read_label):
    with pytest.raises(UserError, match=r"note\.png"):
      read(path)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(UserError, match=r"gone\.png: no such file"):
    read_image(tmp_path / "gone.png")


def test_channels_are_rgb_whatever_the_file_holds(tmp_path):
  red = np.zeros((4, 5, 3), np.uint8)
  red[..., 0] = 200
  for mode in ("RGB", "RGBA", "P"):
    Image.fromarray(red).convert(mode).save(tmp_path / "x.png")
    np.testing.assert_allclose(read_image(tmp_path / "x.png"), red, atol=4)


def test_an_image_is_turned_upright(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6
  Image.new("RGB", (6, 3)).save(tmp_path / "turned.jpg", exif=exif)
  assert read_image(tmp_path / "turned.jpg").shape == (6, 3, 3)


def test_a_palette_mask_is_read_as_ids(tmp_path):
  label = np.array([[0, 1, 2], [255, 2, 1]], np.uint8)
  write_label_png(tmp_path / "p.png", label, [(9, 9, 9), (1, 2, 3), (4, 5, 6)])
  assert Image.open(tmp_path / "p.png").mode == "P"
  np.testing.assert_array_equal(read_label(tmp_path / "p.png"), label)


def test_a_colour_mask_is_explained(tmp_path):
  write_png(tmp_path / "rgb.png", np.zeros((4, 4, 3), np.uint8))
  with pytest.raises(UserError, match=r"rgb\.png.*colour.*convert"):
    read_label(tmp_path / "rgb.png")


def test_sixteen_bit_labels_are_read_only_where_they_fit(tmp_path):
  wide = np.array([[3, 255]], np.uint16)
  Image.fromarray(wide).save(tmp_path / "w.png")
  np.testing.assert_array_equal(read_label(tmp_path / "w.png"), wide)
  Image.fromarray(wide + 1).save(tmp_path / "w.png")
  with pytest.raises(UserError, match=r"w\.png.*256"):
    read_label(tmp_path / "w.png")


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path):
  write_png(tmp_path / "x.png", np.ones((2, 2), np.uint8))
  with pytest.raises((TypeError, ValueError)):
    write_png(tmp_path / "x.png", np.zeros((2, 2, 7), np.uint8))
  assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
  assert read_label(tmp_path / "x.png").all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_viewers_do(tmp_path, orientation):
  pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
  exif = Image.Exif()
  exif[0x0112] = orientation
  Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
  expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png")))
  np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)
  assert image_size(tmp_path / "a.png") == expected.shape[:2]


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_not_turns_nothing(tmp_path, orientation):
  pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
  exif = Image.Exif()
  exif[0x0112] = orientation
  Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
  np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)


@pytest.mark.parametrize(("suffix", "channels"), [("png", 3), ("tif", 3), ("png", 1), ("tif", 1), ("png", 4)])
def test_sixteen_bits_a_channel_are_refused(tmp_path, suffix, channels):
  """Pillow opens colours of 16 bits as 8-bit RGB and drops the low byte."""
  path = tmp_path / f"a.{suffix}"
  assert cv2.imwrite(str(path), np.full((5, 7, channels), 40_000, np.uint16))
  with pytest.raises(UserError, match="more than 8 bits") as error:
    read_image(path)
  assert error.value.kind == "deep_image"


def small_grey(bits, rows):
  """A grey PNG of 1, 2 or 4 bits, which Pillow does not write."""

  def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

  lines = b""
  for row in rows:
    text = "".join(f"{value:0{bits}b}" for value in row)
    text += "0" * (-len(text) % 8)
    lines += b"\0" + bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
  header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), bits, 0, 0, 0, 0)
  body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
  return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_labels_of_few_bits_keep_their_values(tmp_path, bits):
  rows = np.arange(2**bits).repeat(3).reshape(3, -1) if bits > 1 else np.eye(3, dtype=int)
  (tmp_path / "a.png").write_bytes(small_grey(bits, rows.tolist()))
  np.testing.assert_array_equal(read_label(tmp_path / "a.png"), rows)
