import base64
import io
import re

import numpy as np
from PIL import Image

from errseg_jax.report import issues
from errseg_jax.structs import DatasetInfo

EVIL = "</style><script>window.pwned=1</script>"
INFO = DatasetInfo("tiny", ("sky", f"road {EVIL}", "car"), ((0, 114, 178), (128, 128, 128), (230, 159, 0)))
SUMMARY = {
  "dataset": f"tiny{EVIL}", "split": "val", "by": "error_map", "num_images": 2, "unlabelled": 1,
  "unpaired": 0, "regions": 9,
}  # fmt: skip
BOX = (slice(10, 20), slice(30, 50))


def make_crop(shape=(60, 90), box=BOX):
  given, predicted = np.zeros(shape, np.uint8), np.zeros((64, 96), np.uint8)
  given[box], predicted[box] = 1, 2
  given[:, -1] = 255
  texts = dict.fromkeys(("rank", "score", "evidence", "pixels", "left", "top"), "7")
  texts |= {"image": f"street{EVIL}", "given": INFO.classes[1], "predicted": INFO.classes[2]}
  image = np.full((*shape, 3), 50, np.uint8)
  return issues.crop(image, given, predicted, box, texts, INFO)


def decode(uri):
  return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_the_crop_is_the_region_with_a_margin_and_a_frame():
  item = make_crop()
  given, predicted = decode(item.given), decode(item.predicted)
  rows, columns = issues.window(BOX, (60, 90))
  assert (rows, columns) == (slice(0, 44), slice(6, 74))
  assert given.shape == predicted.shape == (44, 68, 3) == (item.height, item.width, 3)
  assert (given[10:20, 24:44] == INFO.palette[1]).all()  # the region itself is not painted over
  assert (predicted[10:20, 24:44] == INFO.palette[2]).all()
  assert (given[9, 23:45] == 255).all()
  assert (given[8, 22:46] == 0).all()
  assert (given[:8] == INFO.palette[0]).all()


def test_a_large_region_is_shrunk_and_the_unlabelled_is_black():
  item = make_crop((700, 900), (slice(100, 600), slice(100, 800)))
  assert max(item.width, item.height) == issues.LONGEST
  assert (decode(make_crop(box=(slice(10, 20), slice(60, 80))).given)[:, -1] == 0).all()


def test_names_are_escaped_and_a_phone_needs_no_sideways_scrolling(page, tmp_path):
  path = tmp_path / "page.html"
  issues.write_page(path, SUMMARY, [make_crop()] * 3, INFO)
  html = path.read_text()
  assert "<script" not in html
  assert "&lt;script&gt;" in html
  assert all(re.findall(r"<img [^>]*alt=\"[^\"]+\"", html))
  page.open(path.as_uri(), 360, 2000)
  assert page.evaluate("window.pwned") is None
  assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_nothing_found_is_said(tmp_path):
  issues.write_page(tmp_path / "page.html", SUMMARY, [], INFO)
  assert "contradicts no annotation" in (tmp_path / "page.html").read_text()
