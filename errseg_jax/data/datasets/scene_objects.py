"""Things that stand in a generated scene, each a list of parts from back to front."""

from __future__ import annotations

import itertools

import numpy as np

from errseg_jax.data.datasets.scene_parts import (
  BICYCLE,
  BUILDING,
  BUS,
  CAR,
  FENCE,
  PERSON,
  POLE,
  RIDER,
  SIGN,
  TREE,
  TRUCK,
  UNLABELLED,
  WALL,
  Camera,
  Part,
  Place,
  draw_colour,
)

Rng = np.random.Generator
_BLACK = np.array([14.0, 14.0, 16.0])
_MASONRY = ("grain", "bricks", "clouds", "stripes")


def _shadow(place: Place, half_width: float) -> Part:
  ground = place.camera.project(
    place.x + half_width * np.array([-1.0, 1.0, 1.3, -0.6]),
    0.0,
    place.depth + np.array([-0.25, -0.25, 0.6, 0.6]) * min(half_width, 0.3 * place.depth),
  )
  return Part(UNLABELLED, [ground], _BLACK, alpha=0.4)


def person(place: Place, rng: Rng, label: int = PERSON, lift: float = 0.0) -> list[Part]:
  """A standing figure; `lift` metres up and labelled rider, it is the upper half on a bicycle."""
  size, lean = rng.uniform(0.85, 1.1), rng.normal(0, 0.05) + (0.18 if lift else 0.0)
  top, hip = lift + 1.72 * size, lift + 0.85 * size
  coat, legs = draw_colour(rng, "cloth"), draw_colour(rng, "cloth")
  stride = rng.uniform(0.05, 0.28)
  shoulder = top - 0.3
  torso = place((-0.17, hip), (0.17, hip), (0.24 + lean, shoulder), (-0.2 + lean, shoulder))
  limbs = [
    place((-0.14, hip), (0.02, hip), (-stride + 0.08, lift), (-stride - 0.06, lift)),
    place((-0.02, hip), (0.15, hip), (stride + 0.08, lift), (stride - 0.06, lift)),
  ]
  head = place.disc(lean, top - 0.14, 0.14, 8)
  shadow = [] if lift else [_shadow(place, 0.35)]
  return [
    *shadow,
    Part(label, limbs, place.colour(legs)),
    Part(label, [torso], place.colour(coat)),
    Part(label, [head], place.colour(draw_colour(rng, "skin"))),
  ]


def bicycle(place: Place, rng: Rng) -> list[Part]:
  """A bicycle from the side, without its rider."""
  frame = place.colour(draw_colour(rng, "paint"))
  wheels = [place.disc(side * 0.52, 0.34, 0.34) for side in (-1, 1)]
  bars = [
    place((-0.52, 0.34), (-0.2, 0.8), (0.36, 0.76), (-0.05, 0.34), (-0.52, 0.34)),
    place((0.52, 0.34), (0.34, 0.98), (0.5, 1.0)),
  ]
  return [
    _shadow(place, 0.7),
    Part(BICYCLE, wheels, _BLACK, alpha=0.2),
    Part(BICYCLE, [*wheels, wheels[0][:1]], place.colour(_BLACK), width=0.05 * place.scale),
    Part(BICYCLE, bars, frame, width=0.06 * place.scale),
  ]


def cyclist(place: Place, rng: Rng) -> list[Part]:
  """A person on a bicycle: what makes a person a rider is only what is below."""
  bike = bicycle(place, rng)
  return [*bike[:2], *person(place, rng, RIDER, lift=0.3), *bike[2:]]


def car(place: Place, rng: Rng) -> list[Part]:
  """A car from the side or from behind, in half of the cases each."""
  body, glass = place.colour(draw_colour(rng, "paint")), place.colour(draw_colour(rng, "glass"))
  if rng.random() < 0.5:
    half, roof = 0.9, rng.uniform(1.35, 1.75)
    hull = place((-half, 0.25), (half, 0.25), (half, 0.95), (0.7, roof), (-0.7, roof), (-half, 0.95))
    window = place((-0.75, 0.95), (0.75, 0.95), (0.62, roof - 0.1), (-0.62, roof - 0.1))
    wheels = [place.box(-half, 0.0, -0.6, 0.3), place.box(0.6, 0.0, half, 0.3)]
  else:
    half, roof = rng.uniform(1.9, 2.3), rng.uniform(1.35, 1.6)
    hull = place(
      (-half, 0.25), (half, 0.25), (half, 0.8), (0.55 * half, 0.9), (0.3 * half, roof),
      (-0.5 * half, roof), (-0.9 * half, 0.9), (-half, 0.85),
    )  # fmt: skip
    window = place((-0.72 * half, 0.92), (0.45 * half, 0.92), (0.25 * half, roof - 0.1),
                   (-0.46 * half, roof - 0.1))  # fmt: skip
    wheels = [place.disc(side * 0.6 * half, 0.32, 0.32, 8) for side in (-1, 1)]
  return [
    _shadow(place, half),
    Part(CAR, wheels, _BLACK),
    Part(CAR, [hull], body, "clouds", 14.0, ring=rng.random() < 0.3),
    Part(CAR, [window], glass),
  ]


def _box_vehicle(place: Place, rng: Rng, label: int) -> tuple[Part, float, float, float, bool]:
  side_on = rng.random() < 0.5
  half = rng.uniform(2.8, 4.2) if side_on else 1.25
  bottom, top = rng.uniform(0.35, 0.6), rng.uniform(2.7, 3.5)
  body = place.colour(draw_colour(rng, "paint"))
  texture = _MASONRY[rng.integers(4)]
  hull = Part(label, [place.box(-half, bottom, half, top)], body, texture, 12.0,
              ring=rng.random() < 0.3)  # fmt: skip
  return hull, half, bottom, top, side_on


def _wheels(place: Place, label: int, half: float) -> Part:
  spots = (-0.75 * half, 0.7 * half)
  return Part(label, [place.disc(x, 0.42, 0.42, 8) for x in spots], _BLACK)


def truck(place: Place, rng: Rng) -> list[Part]:
  """A box with a cab; from behind only the doors' seam says that it is no bus."""
  hull, half, bottom, top, side_on = _box_vehicle(place, rng, TRUCK)
  parts = [_shadow(place, half), _wheels(place, TRUCK, half)]
  glass = place.colour(draw_colour(rng, "glass"))
  if not side_on:
    seam = place((0.0, bottom), (0.0, top))
    return [*parts, hull, Part(UNLABELLED, [seam], glass, width=0.05 * place.scale)]
  cab = place((half, bottom), (half + 1.6, bottom), (half + 1.6, 1.5), (half + 1.3, 0.8 * top),
              (half, 0.8 * top))  # fmt: skip
  window = place((half + 0.5, 1.45), (half + 1.5, 1.45), (half + 1.25, 0.75 * top),
                 (half + 0.5, 0.75 * top))  # fmt: skip
  cab_colour = place.colour(draw_colour(rng, "paint"))
  return [*parts, hull, Part(TRUCK, [cab], cab_colour), Part(TRUCK, [window], glass)]


def bus(place: Place, rng: Rng) -> list[Part]:
  """A box with a row of windows."""
  hull, half, bottom, top, side_on = _box_vehicle(place, rng, BUS)
  glass = place.colour(draw_colour(rng, "glass"))
  edges = np.linspace(-half + 0.15, half - 0.15, 7 if side_on else 2)
  low = bottom + 0.45 * (top - bottom)
  panes = [place.box(left + 0.06, low, right - 0.06, top - 0.35) for left, right in itertools.pairwise(edges)]
  return [_shadow(place, half), _wheels(place, BUS, half), hull, Part(UNLABELLED, panes, glass)]


def pole(place: Place, rng: Rng) -> list[Part]:
  """A lamp post or mast, 6 to 18 cm thick."""
  height, thick = rng.uniform(3.5, 8.5), rng.uniform(0.06, 0.18)
  line = place((0, 0), (0, height))
  if rng.random() < 0.5:
    line = np.concatenate([line, place((rng.uniform(0.6, 1.8), height + 0.2))])
  return [Part(POLE, [line], place.colour(draw_colour(rng, "metal")), width=thick * place.scale)]


def sign(place: Place, rng: Rng) -> list[Part]:
  """A plate on a post: round, three-cornered or square, with a mark or grey (from behind)."""
  up, radius = rng.uniform(2.0, 3.2), rng.uniform(0.28, 0.5)
  metal = place.colour(draw_colour(rng, "metal"))
  plate = [
    place.disc(0, up, radius, 8),
    place.box(-radius, up - radius, radius, up + radius),
    place((-radius, up - radius), (radius, up - radius), (0, up + radius)),
  ][rng.integers(3)]
  post = Part(POLE, [place((0, 0), (0, up))], metal, width=0.08 * place.scale)
  if rng.random() < 0.4:
    return [post, Part(SIGN, [plate], metal)]
  mark = place.disc(0, up - 0.1 * radius, 0.45 * radius, 8)
  face = place.colour(draw_colour(rng, "paint"))
  return [post, Part(SIGN, [plate], face), Part(UNLABELLED, [mark], 255 - face)]


def gantry(camera: Camera, half: float, depth: float, rng: Rng) -> list[Part]:
  """Signs on a beam across the road."""
  place, up = Place(camera, 0.0, depth), rng.uniform(5.0, 6.5)
  metal = place.colour(draw_colour(rng, "metal"))
  frame = place((-half, 0), (-half, up), (half, up), (half, 0))
  boards = [place.box(x - 1.4, up - 0.7, x + 1.4, up + 0.9) for x in (-0.5 * half, 0.4 * half)]
  return [
    Part(POLE, [frame], metal, width=0.22 * place.scale),
    Part(SIGN, boards, place.colour(draw_colour(rng, "paint")), "clouds", 10.0),
  ]


def tree(place: Place, rng: Rng) -> list[Part]:
  """A trunk as thin as a pole, and a ragged crown that lets the background through."""
  height, spread = rng.uniform(3.5, 8.0), rng.uniform(1.2, 2.8)
  angle = np.linspace(0, 2 * np.pi, 26, endpoint=False)
  radius = spread * np.clip(1 + 0.22 * rng.standard_normal(26), 0.4, 1.5)
  crown = np.stack([radius * np.cos(angle), height + 0.85 * radius * np.sin(angle)], axis=1)
  bark = place.colour(draw_colour(rng, "metal") * [0.7, 0.62, 0.52])
  leaves = place.colour(draw_colour(rng, "foliage"))
  return [
    _shadow(place, 0.6 * spread),
    Part(TREE, [place((0, 0), (0, height))], bark, width=rng.uniform(0.1, 0.4) * place.scale),
    Part(TREE, [place(*crown)], leaves, "leaves", 30.0, alpha=0.92, soft=0.15 * place.scale),
  ]


def bush(place: Place, rng: Rng) -> list[Part]:
  """A hedge: the colour and texture of grass, told apart by standing up."""
  half, top = rng.uniform(0.6, 2.5), rng.uniform(0.6, 1.8)
  x = np.linspace(-half, half, 9)
  ridge = top * np.clip(np.sqrt(1.02 - (x / half) ** 2) + 0.12 * rng.standard_normal(9), 0.05, 2)
  points = [(-half, 0.0), *zip(x, ridge, strict=True), (half, 0.0)]
  colour = place.colour(draw_colour(rng, "foliage"))
  return [Part(TREE, [place(*points)], colour, "leaves", 22.0, soft=0.1 * place.scale)]


def _plane(camera: Camera, x: float, near: float, far: float, top: float) -> np.ndarray:
  depth = np.array([near, far, far, near])
  return camera.project(x, np.array([0.0, 0.0, top, top]), depth)


def wall(camera: Camera, x: float, near: float, far: float, rng: Rng) -> list[Part]:
  """A wall along the street: masonry as a building's, but low."""
  colour = camera.faded(draw_colour(rng, "masonry"), near)
  shape = _plane(camera, x, near, far, rng.uniform(1.3, 3.6))
  return [Part(WALL, [shape], colour, _MASONRY[rng.integers(4)], rng.uniform(6, 22))]


def fence(camera: Camera, x: float, near: float, far: float, rng: Rng) -> list[Part]:
  """Bars with the background between them; the label covers the whole."""
  top, count = rng.uniform(0.8, 1.9), int(np.clip((far - near) / 0.8, 4, 40))
  posts = camera.project(x, np.array([[0.0, top]]), np.geomspace(near, far, count)[:, None])
  rails = [camera.project(x, up, np.array([near, far])) for up in (0.35 * top, 0.95 * top)]
  metal = camera.faded(draw_colour(rng, "metal"), 0.5 * (near + far))
  thick = 0.05 * camera.focal / (0.6 * near + 0.4 * far)
  return [
    Part(FENCE, [_plane(camera, x, near, far, top)], metal, alpha=rng.choice([0.0, 0.25])),
    Part(UNLABELLED, [*posts, *rails], metal, width=thick),
  ]


def facade(camera: Camera, x: float, near: float, far: float, rng: Rng) -> list[Part]:
  """A house front along the street, with or without windows."""
  top, colour = rng.uniform(3.8, 16.0), draw_colour(rng, "masonry")
  shape = _plane(camera, x, near, far, top)
  front = Part(BUILDING, [shape], camera.faded(colour, near), _MASONRY[rng.integers(4)],
               rng.uniform(6, 22), ring=rng.random() < 0.15)  # fmt: skip
  if rng.random() < 0.3:
    return [front]
  columns = max(1, int((far - near) / rng.uniform(1.8, 3.2)))
  depth = near + (np.arange(min(columns, 8)) + 0.25)[:, None, None] * (far - near) / columns
  pane = (far - near) / columns * rng.uniform(0.3, 0.55)
  up = np.arange(1.2, top - 1.2, rng.uniform(2.4, 3.2))[None, :, None]
  corners = camera.project(x, up + np.array([0, 0, 1.4, 1.4]), depth + pane * np.array([0, 1, 1, 0]))
  panes = list(corners.reshape(-1, 4, 2))
  glass = camera.faded(draw_colour(rng, "glass") * rng.uniform(0.8, 2.2), near)
  return [front, Part(UNLABELLED, panes, glass)] if panes else [front]
