"""The vocabulary of the generated scenes: classes, the camera, painted parts and their colours."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

CLASSES = (
  "sky",
  "building",
  "wall",
  "fence",
  "pole",
  "sign",
  "tree",
  "grass",
  "road",
  "pavement",
  "water",
  "person",
  "rider",
  "bicycle",
  "car",
  "truck",
  "bus",
)
SKY, BUILDING, WALL, FENCE, POLE, SIGN, TREE, GRASS, ROAD, PAVEMENT, WATER = range(11)
PERSON, RIDER, BICYCLE, CAR, TRUCK, BUS = range(11, 17)
UNLABELLED = -1

Colour = np.ndarray


class Part(NamedTuple):
  """One painted shape.

  Attributes:
    label: class id, or UNLABELLED to leave the label map as it is.
    shapes: polygons (or polylines), each [N, 2] of (x, y) in image heights.
    colour: RGB 0..255.
    texture: name of a texture, or "" for a flat colour.
    contrast: amplitude of the texture, grey levels.
    alpha: opacity 0..1; 0 paints the label only.
    soft: width of the blurred edge, image heights.
    width: of the stroke, image heights; 0 fills the shapes.
    ring: whether a thin ignored ring surrounds the shapes.
  """

  label: int
  shapes: list[np.ndarray]
  colour: Colour
  texture: str = ""
  contrast: float = 0.0
  alpha: float = 1.0
  soft: float = 0.0
  width: float = 0.0
  ring: bool = False


@dataclasses.dataclass(frozen=True)
class Camera:
  """A pinhole camera above a flat ground; one image height is the unit of the image plane.

  Attributes:
    horizon: y of the vanishing line.
    centre: x of the vanishing point.
    height: metres above the ground.
    focal: focal length, image heights.
    bend: curvature of the street, 1 / metres.
    roll: slope of the horizon.
    haze: RGB that far things fade into.
    visibility: metres at which that has happened to two thirds.
  """

  horizon: float
  centre: float
  height: float
  focal: float
  bend: float
  roll: float
  haze: Colour
  visibility: float

  def project(self, x, up, depth) -> np.ndarray:
    """Image points [..., 2] of world points (metres: right of the street's axis, up, ahead)."""
    scale = self.focal / depth
    column = self.centre + (x + self.bend * depth * depth) * scale
    row = self.horizon + (self.height - up) * scale + self.roll * (column - self.centre)
    points = np.empty((*np.shape(row), 2))
    points[..., 0], points[..., 1] = column, row
    return points

  def strip(self, left: float, right: float, near: float = 1.2, far: float = 150.0) -> np.ndarray:
    """Polygon of the ground between two lines along the street."""
    depth = np.geomspace(near, far, 10)
    return np.concatenate([self.project(left, 0.0, depth), self.project(right, 0.0, depth)[::-1]], axis=0)

  def faded(self, colour: Colour, depth: float) -> Colour:
    keep = np.exp(-depth / self.visibility)
    return colour * keep + self.haze * (1 - keep)


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a thing stands: turns its own metres (right, up) into image points."""

  camera: Camera
  x: float
  depth: float
  mirror: float = 1.0

  @property
  def scale(self) -> float:
    """Image heights per metre."""
    return self.camera.focal / self.depth

  def __call__(self, *points: tuple[float, float]) -> np.ndarray:
    right, up = np.array(points).T
    return self.camera.project(self.x + self.mirror * right, up, self.depth)

  def box(self, left: float, bottom: float, right: float, top: float) -> np.ndarray:
    return self((left, bottom), (right, bottom), (right, top), (left, top))

  def disc(self, right: float, up: float, radius: float, points: int = 12) -> np.ndarray:
    return self(*(np.array([right, up]) + radius * _CIRCLES[points]))

  def colour(self, colour: Colour) -> Colour:
    return self.camera.faded(colour, self.depth)


_CIRCLES = {
  count: np.stack(
    [np.cos(np.arange(count) * 2 * np.pi / count), np.sin(np.arange(count) * 2 * np.pi / count)], 1
  )
  for count in (8, 12, 24)
}

# Mean RGB, spread of the brightness, spread of the hue. Classes share materials on purpose: colour
# alone must not tell wall from building, road from pavement or water, or grass from tree.
_MATERIALS = {
  "masonry": ((140, 124, 112), 45.0, 18.0),
  "asphalt": ((112, 112, 114), 26.0, 7.0),
  "water": ((96, 112, 122), 30.0, 12.0),
  "foliage": ((78, 98, 58), 24.0, 14.0),
  "metal": ((118, 120, 122), 42.0, 9.0),
  "paint": ((130, 120, 120), 60.0, 38.0),
  "cloth": ((100, 92, 96), 50.0, 28.0),
  "glass": ((58, 68, 80), 22.0, 7.0),
  "skin": ((176, 136, 112), 30.0, 7.0),
  "sky": ((178, 192, 208), 32.0, 12.0),
}


def draw_colour(rng: np.random.Generator, material: str) -> Colour:
  """A random RGB colour of a material."""
  mean, brightness, hue = _MATERIALS[material]
  colour = np.array(mean) + brightness * rng.standard_normal() + hue * rng.standard_normal(3)
  return np.clip(colour, 8.0, 247.0)
