"""COCO's own annotations as class maps: panoptic segments, or instances as polygons and run lengths.

Source: cocodataset.org/#format-data.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from errseg_jax.data.datasets.base import Sample
from errseg_jax.data.images import read_image
from errseg_jax.data.label_values import REFUSED
from errseg_jax.errors import BadFile, UserError
from errseg_jax.structs import IGNORE

_FAR = 1e6  # pixels: no corner of a polygon is that far off


@dataclasses.dataclass(frozen=True)
class Segments:
  """Panoptic segments of an image: a PNG whose colours are numbers, and the category of each number."""

  path: str
  categories: tuple[tuple[int, int], ...]

  def label(self, size: tuple[int, int], class_of: Mapping[int, int]) -> np.ndarray:
    """Class ids [H, W]; 255 where no segment is.

    Raises:
      UserError: the PNG cannot be read, is of another size, or holds a segment that the JSON lacks.
    """
    colours = read_image(self.path).astype(np.int32)
    if colours.shape[:2] != size:
      raise BadFile("size", f"{self.path}: label and image differ in size; take the archive of the same year")
    numbers = colours @ np.array([1, 256, 65536], np.int32)
    known, places = np.unique(numbers, return_inverse=True)
    table = {0: IGNORE} | {number: class_of[category] for number, category in self.categories}
    if missing := [n for n in known.tolist() if n not in table]:
      raise BadFile(
        "label_value", f"{self.path}: segment {missing[0]} is not in the JSON; take both from one archive"
      )
    return np.array([table[n] for n in known.tolist()], np.uint8)[places.reshape(size)]


@dataclasses.dataclass(frozen=True)
class Shape:
  """One instance: its category, whether it is a crowd, and its polygons or run lengths."""

  category: int
  crowd: bool
  area: float
  polygons: tuple[np.ndarray, ...] = ()
  runs: np.ndarray | None = None

  def paint(self, label: np.ndarray, value: int) -> None:
    """Writes the value into the pixels of a label [H, W]."""
    if self.runs is None:
      for polygon in self.polygons:
        label[filled(polygon, label.shape)] = value
      return
    inside, ends = np.zeros(label.size, bool), np.cumsum(self.runs)
    for start, end in zip(ends[:-1:2], ends[1::2], strict=False):
      inside[start:end] = True
    label[inside.reshape(label.shape[::-1]).T] = value


def filled(polygon: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
  """Pixels whose centres lie inside, bool [H, W]: those that have crossed its sides an odd number of times.

  Args:
    polygon: x and y of its corners in turn, [2 n]; the first pixel is from 0 to 1.
    size: (H, W).
  """
  height, width = size
  x, y = polygon.reshape(-1, 2).astype(np.float64).T
  next_x, next_y = np.roll(x, -1), np.roll(y, -1)
  centre = np.arange(height) + 0.5
  side, row = np.nonzero((y[:, None] <= centre) != (next_y[:, None] <= centre))
  slope = (next_x[side] - x[side]) / (next_y[side] - y[side])
  crossing = x[side] + (centre[row] - y[side]) * slope
  first = np.clip(np.ceil(crossing - 0.5), 0, width).astype(int)
  crossed = np.zeros((height, width + 1), np.int32)
  np.add.at(crossed, (row, first), 1)
  return np.cumsum(crossed, 1)[:, :width] % 2 == 1


@dataclasses.dataclass(frozen=True)
class Instances:
  """The instances of an image, the largest first: what is small lies in front; and the image's size."""

  path: str
  shapes: tuple[Shape, ...]
  size: tuple[int, int]

  def label(self, size: tuple[int, int], class_of: Mapping[int, int]) -> np.ndarray:
    """Class ids [H, W]; 0 where no instance is, 255 in crowds.

    Raises:
      UserError: the JSON is of an image of another size.
    """
    if size != self.size:
      raise BadFile(
        "size",
        f"{self.path}: is of an image of {_size(self.size)}, and the file is {_size(size)}; take both from one archive",
      )
    label = np.zeros(size, np.uint8)
    for shape in self.shapes:
      shape.paint(label, IGNORE if shape.crowd else class_of[shape.category])
    return label


@dataclasses.dataclass(frozen=True)
class AnnotatedSource:
  """Samples whose labels are made of annotations.

  Attributes:
    names: one per sample.
    images: paths, one per sample.
    annotations: one per sample.
    class_of: category id -> class id.
    path: of the JSON.
  """

  names: tuple[str, ...]
  images: tuple[str, ...]
  annotations: tuple[Segments | Instances, ...]
  class_of: Mapping[int, int]
  path: str

  def __len__(self) -> int:
    return len(self.names)

  def files(self, index: int) -> tuple[str, ...]:
    """That a sample is read from."""
    return tuple(dict.fromkeys((self.images[index], self.annotations[index].path, self.path)))

  def __getitem__(self, index: int) -> Sample:
    image, annotation = read_image(self.images[index]), self.annotations[index]
    label = annotation.label(image.shape[:2], self.class_of)
    return {"image": image, "label": label, "name": self.names[index]}


def source(
  kind: str, path: pathlib.Path, images: Mapping[str, pathlib.Path], class_of: Mapping[int, int]
) -> tuple[AnnotatedSource, tuple[str, ...]]:
  """(samples of the images that the JSON names, a problem for each image on one side alone).

  Args:
    kind: "panoptic" or "instances".
    path: of the JSON; panoptic PNGs lie in the folder of its name.
    images: by name.
    class_of: category id -> class id, REFUSED for ids that no category has.

  Raises:
    UserError: the JSON is missing or damaged, or names a category that there is not.
  """
  content = read_json(path)
  try:
    listed = {pathlib.PurePosixPath(entry["file_name"]).stem: int(entry["id"]) for entry in content["images"]}
    entries, found = content["annotations"], dict[int, Any]()
    if kind == "panoptic":
      found = panoptic(path, entries, class_of)
    else:
      sizes = {int(entry["id"]): (int(entry["height"]), int(entry["width"])) for entry in content["images"]}
      found = instances(path, entries, class_of, sizes)
  except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
    raise UserError(
      f"{path}: is no {kind} annotation ({type(error).__name__}: {error}); take the file anew"
    ) from None
  problems = [f"{images[name]}: is not in {path}; remove it" for name in images if name not in listed]
  problems += [f"{path}: {name}.jpg does not exist; add it" for name in listed if name not in images]
  names = [name for name in images if name in listed]
  if kind == "panoptic":
    problems += [f"{path}: {name}.jpg has no segments" for name in names if listed[name] not in found]
    names = [name for name in names if listed[name] in found]
  if not names:
    raise UserError(problems[0] if problems else f"{path}: names no image")
  given = tuple(found[listed[name]] for name in names)
  paths = tuple(str(images[name]) for name in names)
  return AnnotatedSource(tuple(names), paths, given, class_of, str(path)), tuple(problems)


def read_json(path: pathlib.Path) -> Mapping[str, Any]:
  """The content of an annotation file.

  Raises:
    UserError: it is missing, damaged, or no object.
  """
  try:
    content = json.loads(path.read_bytes())
  except FileNotFoundError:
    raise UserError(f"{path}: no such file; data.root must hold annotations/{path.name}") from None
  except (ValueError, RecursionError) as error:
    raise UserError(f"{path}: is damaged ({' '.join(str(error).split())}); take the file anew") from None
  if not isinstance(content, dict):
    raise UserError(f"{path}: is no annotation file; take the file anew")
  return content


def category(path: pathlib.Path, entry: Mapping[str, Any], class_of: Mapping[int, int]) -> int:
  """Of an annotation or a segment.

  Raises:
    UserError: there is no such category.
  """
  number = int(entry["category_id"])
  if class_of.get(number, REFUSED) == REFUSED:
    raise UserError(f"{path}: category {number} is none of COCO's; take the file anew")
  return number


def panoptic(
  path: pathlib.Path, entries: Sequence[Mapping[str, Any]], class_of: Mapping[int, int]
) -> dict[int, Segments]:
  """Segments by image id."""
  folder, out = path.with_suffix(""), {}
  for entry in entries:
    name = pathlib.PurePosixPath(entry["file_name"]).name
    segments = tuple((int(s["id"]), category(path, s, class_of)) for s in entry["segments_info"])
    out[int(entry["image_id"])] = Segments(str(folder / name), segments)
  return out


def instances(
  path: pathlib.Path,
  entries: Sequence[Mapping[str, Any]],
  class_of: Mapping[int, int],
  sizes: Mapping[int, tuple[int, int]],
) -> dict[int, Instances]:
  """Instances by image id, of each image of `sizes`.

  Raises:
    ValueError: an instance is no shape in its image, or of no image.
  """
  found: dict[int, list[Shape]] = {image: [] for image in sizes}
  for entry in entries:
    image = int(entry["image_id"])
    number = category(path, entry, class_of)
    polygons, runs = outline(entry["segmentation"], sizes[image])
    found[image].append(Shape(number, bool(entry.get("iscrowd", 0)), float(entry["area"]), polygons, runs))
  return {
    image: Instances(str(path), tuple(sorted(shapes, key=lambda shape: -shape.area)), sizes[image])
    for image, shapes in found.items()
  }


def outline(given: Any, size: tuple[int, int]) -> tuple[tuple[np.ndarray, ...], np.ndarray | None]:
  """(polygons, run lengths) of a segmentation; of the first a point or a line is none.

  Raises:
    ValueError: it is neither in an image of this size.
  """
  if isinstance(given, list):
    polygons = tuple(np.asarray(p, np.float64) for p in given)
    if any(p.ndim != 1 or len(p) % 2 or not (abs(p) < _FAR).all() for p in polygons):
      raise ValueError("a polygon is no list of x and y in turn")
    return tuple(p.astype(np.float32) for p in polygons if len(p) >= 6), None
  counts = given["counts"]
  runs = np.asarray(unpacked(counts) if isinstance(counts, str) else counts, np.int64)
  if tuple(given["size"]) != size or runs.ndim != 1 or (runs < 0).any() or runs.sum() != size[0] * size[1]:
    raise ValueError(f"run lengths do not fill an image of {_size(size)}")
  return (), runs


def _size(size: tuple[int, int]) -> str:
  return f"{size[1]}x{size[0]}"


def unpacked(text: str) -> list[int]:
  """Run lengths of COCO's packed form: six bits a letter, five of them of a number, from the third on differences."""
  out: list[int] = []
  value = shift = 0
  for letter in text.encode("latin1"):
    bits = letter - 48
    value |= (bits & 31) << shift
    shift += 5
    if bits & 32:
      continue
    if bits & 16:
      value -= 1 << shift
    out.append(value + (out[-2] if len(out) > 2 else 0))
    value = shift = 0
  return out
