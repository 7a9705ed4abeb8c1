"""Files of class scores: every form gives the same scores, and what does not fit is one line that names the file."""

import contextlib
import io
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from errseg_jax.data.score_files import ScoreFormat, read_scores
from errseg_jax.data.scores import STEPS, at_size, decode, encode, joined, warp
from errseg_jax.errors import BadFile, UserError

SIZE, SMALL, C = (40, 48), (10, 12), 5
RNG = np.random.default_rng(0)
LOGITS = (3 * RNG.normal(size=(*SMALL, C))).astype(np.float32)
P = np.asarray(jax.nn.softmax(LOGITS))
BYTES = np.round(255 * P).astype(np.uint8)


def below(z):
  return z - z.max(-1, keepdims=True)


def stacked(planes):
  return np.concatenate(np.moveaxis(planes, -1, 0))


def write(path, array):
  """An array as a file, by its suffix; npz of a dictionary."""
  if path.suffix == ".npz":
    np.savez_compressed(path, **array)
  elif path.suffix == ".npy":
    np.save(path, array)
  elif path.suffix == ".png":
    Image.fromarray(array).save(path)
  else:
    planes = None if path.stem == "pages" else "contig"
    tifffile.imwrite(path, array, photometric="minisblack", planarconfig=planes)
  return path


@pytest.mark.parametrize(
  ("name", "array", "kind", "tolerance"),
  [
    ("p.npy", P, {}, 0.04),
    ("half.npy", P.astype(np.float16), {}, 0.1),
    ("columns.npy", np.asfortranarray(P.astype(np.float64)), {}, 0.04),
    ("z.npy", LOGITS, {"values": "logits"}, 0.04),
    ("first.npy", np.moveaxis(LOGITS, -1, 0), {"values": "logits", "channels_first": True}, 0.04),
    ("any_name.npz", {"scores": P}, {}, 0.04),
    ("codes.npz", {"codes": encode(LOGITS)}, {}, 0.04),
    ("deep.npy", np.round(65535 * P).astype(np.uint16), {}, 0.7),
  ],
)
def test_every_form_gives_the_same_scores(tmp_path, name, array, kind, tolerance):
  codes = read_scores(write(tmp_path / name, array), SIZE, C, ScoreFormat(**kind))
  assert codes.dtype == np.uint8
  near = below(LOGITS) > -8
  np.testing.assert_allclose(decode(codes)[near], below(LOGITS)[near], atol=tolerance)


@pytest.mark.parametrize(
  ("name", "array"),
  [
    ("a.npy", BYTES),
    ("a.npz", {"p": BYTES}),
    ("a.png", stacked(BYTES)),
    ("pages.tif", np.moveaxis(BYTES, -1, 0)),
    ("a.tiff", BYTES),
  ],
)
def test_eight_bits_hold_probabilities_to_half_a_step(tmp_path, name, array):
  codes = read_scores(write(tmp_path / name, array), SIZE, C)
  np.testing.assert_allclose(jax.nn.softmax(decode(codes)), P, atol=0.5 / 255 + 0.02)
  sure = np.diff(np.sort(BYTES, -1))[..., -1] > 8
  np.testing.assert_array_equal(codes.argmax(-1)[sure], P.argmax(-1)[sure])


def test_the_likeliest_classes_alone_leave_the_rest_spread_evenly(tmp_path):
  classes = np.argsort(-P, -1)[..., :3]
  arrays = {"classes": classes.astype(np.uint8), "scores": np.take_along_axis(P, classes, -1)}
  found = jax.nn.softmax(decode(read_scores(write(tmp_path / "a.npz", arrays), SIZE, C)))
  np.testing.assert_allclose(np.take_along_axis(np.asarray(found), classes, -1), arrays["scores"], atol=0.02)
  others = np.take_along_axis(np.asarray(found), np.argsort(-P, -1)[..., 3:], -1)
  np.testing.assert_allclose(others[..., 0], others[..., 1], rtol=1e-5)


def test_two_classes_may_have_one_map(tmp_path):
  z = LOGITS[..., 0]
  want = np.stack([0 * z, z], -1)
  p = np.asarray(jax.nn.sigmoid(z))
  for name, array, values in (
    ("z.npy", z, "logits"),
    ("z1.npy", z[..., None], "logits"),
    ("p.npy", p, "probabilities"),
    ("both.npy", np.stack([1 - p, p], -1), "probabilities"),
  ):
    codes = read_scores(write(tmp_path / name, array), SIZE, 2, ScoreFormat(values))
    np.testing.assert_allclose(decode(codes), below(want), atol=0.04)
  grey = write(tmp_path / "p.png", np.round(255 * p).astype(np.uint8))
  np.testing.assert_allclose(jax.nn.softmax(decode(read_scores(grey, SIZE, 2)))[..., 1], p, atol=0.03)


@pytest.mark.parametrize(
  ("name", "array", "kind", "message"),
  [
    ("a.npy", P[..., :4], {}, "5 classes are wanted: [h, w, 5]"),
    ("a.npy", np.moveaxis(P, -1, 0), {}, "set segmenter.adapter.channels_first"),
    ("a.npy", P[:, :9], {}, "its scores are 9x10"),
    ("a.npy", np.concatenate([P] * 5), {}, "its scores are 12x50"),
    ("a.npy", P * 0.8, {}, "do not add up to 1 (off by 0.2)"),
    ("a.npy", LOGITS, {}, "which are no probabilities"),
    ("a.npy", np.where(P > 0.9, np.nan, P), {}, "no finite numbers"),
    ("a.npy", np.where(P > 0.9, np.inf, LOGITS), {"values": "logits"}, "no finite numbers"),
    ("a.npy", BYTES, {"values": "logits"}, "logits are floating-point numbers"),
    ("a.npz", {"a": P, "b": P}, {}, "one array is wanted"),
    ("a.npz", {"codes": P}, {}, "not uint8"),
    ("a.npz", {"classes": np.zeros((*SMALL, 2), int), "scores": P[..., :2]}, {}, "must be different ones of 0..4"),
    ("a.npz", {"classes": np.zeros((*SMALL, 2), int), "scores": P}, {}, "must both be [h, w, K]"),
    ("a.npz", {"classes": np.full((*SMALL, 1), 5), "scores": P[..., :1]}, {}, "must be different ones of 0..4"),
    ("a.npz", {"classes": np.argsort(P, -1), "scores": np.sort(P, -1)}, {"values": "logits"}, "want probabilities"),
    ("a.npz", {"classes": np.argsort(P, -1), "scores": np.sort(P, -1) * 0.5}, {}, "do not add up to 1"),
    ("a.npy", np.array([[None]]), {}, "cannot be read as scores"),
    ("a.png", np.zeros((*SMALL, 3), np.uint8), {}, "5 classes are wanted"),
  ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line_that_names_the_file(tmp_path, name, array, kind, message):
  path = write(tmp_path / name, array)
  with pytest.raises(BadFile) as error:
    read_scores(path, SIZE, C, ScoreFormat(**kind))
  text = str(error.value)
  assert text.startswith(str(path))
  assert message in text
  assert "\n" not in text


def test_a_tolerance_of_a_rounding_a_class_is_allowed(tmp_path):
  off = P.copy()
  off[..., 0] += 1.9 * C / 255
  read_scores(write(tmp_path / "a.npy", off.clip(0, 1)), SIZE, C)


def test_unknown_values_and_missing_files_are_told(tmp_path):
  with pytest.raises(UserError, match="known are probabilities, logits"):
    ScoreFormat("votes")
  with pytest.raises(BadFile, match="no such file"):
    read_scores(tmp_path / "a.npy", SIZE, C)


CONTENTS = {".npy": P, ".npz": {"p": P}, ".png": stacked(BYTES), ".tif": BYTES}


@pytest.mark.parametrize("suffix", CONTENTS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_damaged_files_are_one_line(tmp_path_factory, suffix, data):
  path = tmp_path_factory.mktemp("damaged") / f"a{suffix}"
  content = bytearray(write(path, CONTENTS[suffix]).read_bytes())
  if data.draw(st.booleans()):
    content = content[: data.draw(st.integers(0, len(content) - 1))]
  else:
    for _ in range(data.draw(st.integers(1, 8))):
      content[data.draw(st.integers(0, min(len(content), 300) - 1))] = data.draw(st.integers(0, 255))
  path.write_bytes(content)
  with contextlib.suppress(BadFile):  # anything else would be a traceback
    read_scores(path, SIZE, C)


def test_bombs_are_not_unpacked(tmp_path):
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 20, 1 << 20, 5)}
  )
  (tmp_path / "a.npy").write_bytes(header.getvalue())
  with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("p.npy", header.getvalue() + bytes(1 << 24))
  Image.new("L", (20_000, 20_000)).save(tmp_path / "a.png")
  for name in ("a.npy", "a.npz", "a.png"):
    with pytest.raises(BadFile, match="cannot be read as scores"):
      read_scores(tmp_path / name, SIZE, C)


@settings(max_examples=10, deadline=None)
@given(
  size=st.tuples(st.integers(4, 30), st.integers(4, 30)), factor=st.integers(1, 4), classes=st.integers(2, 9)
)
def test_codes_are_interpolated_as_logits_are(size, factor, classes):
  z = np.random.default_rng(size[0]).normal(0, 2, (*size, classes)).astype(np.float32)
  large = tuple(factor * n for n in size)
  found = decode(at_size(encode(z), large))
  want = jax.image.resize(jnp.asarray(z), (*large, classes), "linear")
  np.testing.assert_allclose(jax.nn.softmax(found), jax.nn.softmax(want), atol=0.05)


def test_aligned_corners_lie_on_the_corners():
  codes = encode(LOGITS)
  found = at_size(codes, (37, 45), align_corners=True)
  np.testing.assert_array_equal(found[::4, ::4][:10, :12], codes)


def test_smaller_images_take_the_mean_of_an_area():
  codes = np.full((8, 8, 2), 255, np.uint8)
  codes[::2, :, 1] = 255 - 2 * STEPS
  np.testing.assert_array_equal(at_size(codes, (4, 4))[..., 1], 255 - STEPS)


def test_a_map_moves_with_its_image():
  image = np.zeros((32, 32, 3), np.uint8)
  codes = np.zeros((8, 8, 5), np.uint8)
  codes[2:4, 4:6] = 255  # rows 8 to 15, columns 16 to 23 of the image
  moved = warp(codes, np.array([[-1.0, 0, 31], [0, 1, 4]]), (32, 32), (32, 32))
  assert moved[14, 11].min() > 200
  assert moved[14, 20].max() < 50
  both = joined({"image": image, "scores": codes, "name": "a"})
  assert both["image"].shape == (32, 32, 8)
  assert both.keys() == {"image", "name"}
  plain = {"image": image}
  assert joined(plain) is plain
