import json
import pickle

import numpy as np
import pytest
from PIL import Image

from errseg_jax.data import datasets
from errseg_jax.data.datasets.coco_json import filled, unpacked
from errseg_jax.errors import UserError

NAMES = ("000000000139", "000000000285")
SIZE = (20, 30)


def packed(counts):
  """COCO's packed run lengths, after the description of its format."""
  text, out = [], []
  for k, count in enumerate(counts):
    value = count - counts[k - 2] if k > 2 else count
    more = True
    while more:
      bits = value & 31
      value >>= 5
      more = not ((value == 0 and not bits & 16) or (value == -1 and bits & 16))
      text.append(chr((bits | 32 if more else bits) + 48))
  out = "".join(text)
  return out


def colour(numbers):
  return np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], -1).astype(np.uint8)


@pytest.fixture
def root(tmp_path):
  """Two images; of the first a person, a chair in front of it, a crowd of cars and stuff; of the second nothing."""
  rng = np.random.default_rng(0)
  (tmp_path / "val2017").mkdir()
  (tmp_path / "annotations/panoptic_val2017").mkdir(parents=True)
  images = [{"id": int(name), "file_name": f"{name}.jpg", "height": 20, "width": 30} for name in NAMES]
  for name in NAMES:
    Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8)).save(tmp_path / f"val2017/{name}.jpg")
  numbers = np.full(SIZE, 70_000)
  numbers[2:12, 3:23], numbers[5:8, 6:10], numbers[15:, 25:] = 513, 7, 0
  Image.fromarray(colour(numbers)).save(tmp_path / f"annotations/panoptic_val2017/{NAMES[0]}.png")
  Image.fromarray(colour(np.zeros(SIZE, int))).save(tmp_path / f"annotations/panoptic_val2017/{NAMES[1]}.png")
  segments = [{"id": 513, "category_id": 1}, {"id": 7, "category_id": 62}, {"id": 70_000, "category_id": 200}]
  panoptic = {
    "images": images,
    "annotations": [
      {"image_id": 139, "file_name": f"{NAMES[0]}.png", "segments_info": segments},
      {"image_id": 285, "file_name": f"{NAMES[1]}.png", "segments_info": []},
    ],
  }
  (tmp_path / "annotations/panoptic_val2017.json").write_text(json.dumps(panoptic))
  crowd = np.zeros(SIZE, bool)
  crowd[15:, 25:] = True
  changes = np.flatnonzero(np.diff(np.concatenate([[False], crowd.T.ravel(), [False]])))
  counts = np.diff(np.concatenate([[0], changes, [crowd.size]])).tolist()
  shapes = [
    {"image_id": 139, "category_id": 62, "area": 12, "segmentation": [[6, 5, 10, 5, 10, 8, 6, 8]]},
    {"image_id": 139, "category_id": 1, "area": 200, "segmentation": [[3, 2, 23, 2, 23, 12, 3, 12]]},
    {
      "image_id": 139,
      "category_id": 3,
      "area": 25,
      "iscrowd": 1,
      "segmentation": {"counts": counts, "size": [*SIZE]},
    },
  ]
  (tmp_path / "annotations/instances_val2017.json").write_text(
    json.dumps({"images": images, "annotations": shapes})
  )
  return tmp_path


def build(root, annotations, **fields):
  return datasets.build("coco", root=str(root), annotations=annotations, **fields)


@pytest.mark.parametrize("annotations", ["panoptic", "instances"])
@pytest.mark.parametrize("classes", ["things", "voc"])
def test_annotations_become_the_classes_that_were_asked_for(root, annotations, classes):
  dataset = build(root, annotations, classes=classes)
  source = pickle.loads(pickle.dumps(dataset.source("val2017")))
  assert source.names == NAMES
  label = source[0]["label"]
  want = np.zeros(SIZE, np.uint8)
  want[2:12, 3:23] = dataset.info.classes.index("person")
  want[5:8, 6:10] = dataset.info.classes.index("chair")
  want[15:, 25:] = 255
  np.testing.assert_array_equal(label, want)
  assert (source[1]["label"] == (255 if annotations == "panoptic" else 0)).all()


def test_packed_run_lengths_are_those_that_were_packed(root):
  rng = np.random.default_rng(0)
  for _ in range(50):
    counts = rng.integers(0, 5000, rng.integers(1, 12)).tolist()
    assert unpacked(packed(counts)) == counts
  path = root / "annotations/instances_val2017.json"
  content = json.loads(path.read_text())
  want = build(root, "instances").source("val2017")[0]["label"]
  given = content["annotations"][2]["segmentation"]
  given["counts"] = packed(given["counts"])
  path.write_text(json.dumps(content))
  np.testing.assert_array_equal(build(root, "instances").source("val2017")[0]["label"], want)


def change(root, kind, edit):
  path = root / f"annotations/{kind}_val2017.json"
  content = json.loads(path.read_text())
  edit(content)
  path.write_text(json.dumps(content))


@pytest.mark.parametrize(
  ("kind", "edit", "message"),
  [
    ("panoptic", lambda c: c["annotations"][0]["segments_info"].pop(1), "segment 7 is not in the JSON"),
    (
      "panoptic",
      lambda c: c["annotations"][0]["segments_info"][0].update(category_id=12),
      "category 12 is none",
    ),
    ("instances", lambda c: c["annotations"][0].update(category_id=201), "category 201 is none"),
    ("instances", lambda c: c["annotations"][0].pop("segmentation"), "is no instances annotation"),
    ("instances", lambda c: c.pop("images"), "is no instances annotation"),
    ("instances", lambda c: c["images"][0].update(height=21, width=31), "run lengths do not fill"),
    (
      "instances",
      lambda c: c["images"][1].update(height=21),
      "is of an image of 30x21, and the file is 30x20",
    ),
    ("instances", lambda c: c["annotations"][2]["segmentation"].update(size=[30, 20]), "do not fill"),
    ("instances", lambda c: c["annotations"][2]["segmentation"]["counts"].append(-1), "do not fill"),
    ("instances", lambda c: c["annotations"][2]["segmentation"].update(counts=[10**30]), "OverflowError"),
    (
      "instances",
      lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, 6, 7]]),
      "x and y in turn",
    ),
    (
      "instances",
      lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, 1e308]]),
      "x and y in turn",
    ),
    (
      "instances",
      lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, float("nan")]]),
      "in turn",
    ),
    ("instances", lambda c: c["annotations"][0].update(image_id=7), "KeyError: 7"),
    ("instances", lambda c: c["images"][0].update(id=float("inf")), "OverflowError"),
    ("panoptic", lambda c: c["images"][0].update(id=float("inf")), "OverflowError"),
  ],
)
def test_what_does_not_fit_is_told(root, kind, edit, message):
  change(root, kind, edit)
  with pytest.raises(UserError, match=message):
    list(build(root, kind).source("val2017"))


@pytest.mark.parametrize("kind", ["panoptic", "instances"])
def test_a_json_of_random_values_is_read_or_told(root, kind):
  """Any value of it is replaced by another kind of value: samples, or one line that names the file."""
  path, rng = root / f"annotations/{kind}_val2017.json", np.random.default_rng(0)
  text = path.read_text()
  others = (None, -1, 10**30, 1e308, float("inf"), float("nan"), "x" * 9, [], {}, [[]], [1, 2, 3], True, "[")
  told = 0  # or read
  for _ in range(300):
    content = json.loads(text)
    at, key = content, None
    while isinstance(at if key is None else at[key], dict | list) and (key is None or rng.random() < 0.9):
      below = at if key is None else at[key]
      if not below:
        break
      at, keys = below, sorted(below) if isinstance(below, dict) else range(len(below))
      key = keys[int(rng.integers(len(keys)))]
    at[key] = others[int(rng.integers(len(others)))]
    path.write_text(json.dumps(content))
    try:
      for sample in build(root, kind).source("val2017"):
        assert sample["label"].shape == SIZE
    except UserError as error:
      told += str(root) in str(error)
    else:
      told += 1
  assert told == 300


def test_files_on_one_side_alone_are_told(root):
  (root / f"val2017/{NAMES[1]}.jpg").rename(root / "val2017/000000000999.jpg")
  problems = build(root, "instances").scan("val2017")[1]
  assert "000000000999.jpg: is not in" in problems[0]
  assert "000000000285.jpg does not exist" in problems[1]
  change(root, "panoptic", lambda c: c["annotations"].pop(0))
  with pytest.raises(UserError, match="000000000999"):
    build(root, "panoptic").source("val2017")


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"images": 3', b"\xff\xfe", b"[" * 99_999])
def test_a_damaged_json_is_one_line(root, content):
  (root / "annotations/instances_val2017.json").write_bytes(content)
  with pytest.raises(UserError, match=r"instances_val2017\.json: is "):
    build(root, "instances").source("val2017")
  with pytest.raises(UserError, match="must be one of stuffthingmaps"):
    build(root, "polygons").source("val2017")


def test_polygons_hold_the_pixels_whose_centres_they_hold():
  corner = filled(np.array([0, 0, 4.2, 0, 0, 4.2], np.float32), (5, 6))
  np.testing.assert_array_equal(corner[:4].sum(1), [4, 3, 2, 1])
  disc = np.linspace(0, 2 * np.pi, 200, endpoint=False)
  points = np.stack([15 + 8 * np.cos(disc), 10 + 8 * np.sin(disc)], 1)
  rows, columns = np.indices((20, 30)) + 0.5
  want = (columns - 15) ** 2 + (rows - 10) ** 2 < 64
  assert (filled(points.ravel(), (20, 30)) != want).sum() <= 8
  beyond = filled(np.array([-5, -5, 90, -5, 90, 90, -5, 90], np.float32), (4, 7))
  assert beyond.all()
