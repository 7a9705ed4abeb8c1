"""What is taken and what is refused, in one line each, whatever the bytes are."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from errseg_jax.data.images import read_image
from errseg_jax.errors import UserError
from errseg_jax.serve.uploads import MAX_SIDE, Limits, Refused, read_upload
from tests.serve.conftest import unpacked

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 56, 3), dtype=np.uint8)


def file_of(kind, pixels=PIXELS, mode=None, **options):
  buffer = io.BytesIO()
  image = Image.fromarray(pixels)
  (image.convert(mode) if mode else image).save(buffer, kind, **options)
  return buffer.getvalue()


def png_header(width, height):
  """A PNG that claims a size and has a byte of data."""

  def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

  header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  return (
    b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
  )


PNG, JPEG = file_of("PNG"), file_of("JPEG")
NO_IMAGE = {
  "empty": b"",
  "text": b"hello",
  "html": b"<!DOCTYPE html><script>alert(1)</script>",
  "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>1</script></svg>',
  "pdf": b"%PDF-1.7\n1 0 obj\n",
  "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
  "zip": b"PK\x03\x04" + bytes(60),
  "gif": file_of("GIF"),
  "icon": file_of("ICO"),
  "noise": RNG.bytes(5000),
  "zeros": bytes(5000),
  "png signature": PNG[:8],
  "png header": PNG[:33],
  "png half": PNG[: len(PNG) // 2],
  "png tail": PNG[8:],
  "png bit flips": PNG[:60] + bytes(b ^ 255 for b in PNG[60:90]) + PNG[90:],
  "jpeg start": JPEG[:4],
  "jpeg half": JPEG[: len(JPEG) // 2],
  "jpeg header": JPEG[:200],
  "webp half": file_of("WEBP", lossless=True)[:200],
  "bmp half": file_of("BMP")[:300],
  "tiff half": file_of("TIFF")[:300],
  "png of no width": png_header(0, 5),
  "png without pixels": png_header(64, 64),
  "16 bits": file_of("PNG", np.zeros((40, 56), np.uint16)),
  "floats": file_of("TIFF", np.zeros((40, 56), np.float32)),
}
TOO_LARGE = {
  "bomb": png_header(60000, 60000),
  "huge": png_header(2**31 - 1, 2**31 - 1),
  "pixels": png_header(1001, 1000),
  "strip": png_header(MAX_SIDE + 1, 1),
  "column": png_header(1, MAX_SIDE + 1),
}
TAKEN = {
  "jpeg": JPEG,
  "png": PNG,
  "webp": file_of("WEBP"),
  "bmp": file_of("BMP"),
  "tiff": file_of("TIFF"),
  "grey": file_of("PNG", mode="L"),
  "palette": file_of("PNG", mode="P"),
  "transparent": file_of("PNG", mode="RGBA"),
  "cmyk": file_of("JPEG", mode="CMYK"),
  "one bit": file_of("PNG", mode="1"),
  "one pixel": file_of("PNG", PIXELS[:1, :1]),
  "jpeg and more": JPEG + b"<script>" * 9,
}


@pytest.mark.parametrize("name", NO_IMAGE)
def test_what_is_no_image_is_refused_in_one_line(client, name):
  answer = client.post("/predict", content=NO_IMAGE[name])
  line = answer.json()["error"]
  assert answer.status_code == 400
  assert 10 < len(line) < 200
  assert "\n" not in line
  assert "0x" not in line  # the repr of an object


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_claims_too_many_pixels_is_refused_unread(client, name, monkeypatch):
  monkeypatch.setattr("errseg_jax.serve.uploads.decode_image", lambda *_: pytest.fail("it was decoded"))
  answer = client.post("/predict", content=TOO_LARGE[name])
  assert answer.status_code == 413
  assert "shrink" in answer.json()["error"]


def test_limits_are_met_to_the_byte_and_pixel():
  limits = Limits(megabytes=1, megapixels=1)
  limits.check_bytes(10**6)
  limits.check_size(1000, 1000)
  with pytest.raises(Refused, match="1 MB"):
    limits.check_bytes(10**6 + 1)
  with pytest.raises(Refused, match=r"1\.0 megapixels"):
    limits.check_size(1000, 1001)


@pytest.mark.parametrize("name", TAKEN)
def test_what_predict_reads_is_taken(name, tmp_path):
  path = tmp_path / "image"
  path.write_bytes(TAKEN[name])
  np.testing.assert_array_equal(read_upload(TAKEN[name], Limits()), read_image(path))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_rotated_photograph_is_answered_upright(client, orientation, tmp_path):
  exif = Image.Exif()
  exif[0x0112] = orientation
  content = file_of("JPEG", exif=exif)
  told, planes, jpeg = unpacked(client.post("/predict", content=content).content)
  shape = (56, 40) if orientation in (6, 8) else (40, 56)
  assert (told["height"], told["width"]) == shape == planes["semantic"].shape
  assert Image.open(io.BytesIO(jpeg)).size == shape[::-1]


def test_no_decoder_is_reached_but_those_of_photographs(monkeypatch):
  opened = []

  def spy(*args, formats=None, **kwargs):
    opened.append(formats)
    return real(*args, formats=formats, **kwargs)

  real = Image.open
  monkeypatch.setattr(Image, "open", spy)
  read_upload(PNG, Limits())
  assert opened
  assert all(formats == ("JPEG", "PNG", "WEBP", "BMP", "TIFF") for formats in opened)


def test_pillow_says_nothing_of_a_file(recwarn):
  with pytest.raises(UserError):
    read_upload(png_header(10000, 9500), Limits())  # Pillow warns of a bomb from 89 megapixels on
  assert not recwarn.list
