"""Four kinds of scene: what stands where, on which ground. Each gives its parts back to front."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from errseg_jax.data.datasets import scene_objects as objects
from errseg_jax.data.datasets.scene_parts import (
  BUILDING,
  GRASS,
  PAVEMENT,
  ROAD,
  SKY,
  TREE,
  UNLABELLED,
  WATER,
  Camera,
  Part,
  Place,
  draw_colour,
)

Rng = np.random.Generator
Thing = Callable[[Place, Rng], list[Part]]
Things = list[tuple[float, list[Part]]]
_WHITE = np.array([208.0, 206.0, 200.0])


def _camera(rng: Rng) -> Camera:
  return Camera(
    horizon=rng.uniform(0.32, 0.54),
    centre=rng.uniform(0.4, 1.1),
    height=rng.uniform(1.4, 2.6),
    focal=rng.uniform(0.8, 1.3),
    bend=rng.normal(0, 0.0015),
    roll=rng.normal(0, 0.02),
    haze=draw_colour(rng, "sky"),
    visibility=float(np.exp(rng.uniform(np.log(40), np.log(400)))),
  )


def _sky(camera: Camera, rng: Rng) -> Part:
  whole = np.array([[-1.0, -1.0], [9.0, -1.0], [9.0, 2.0], [-1.0, 2.0]])
  return Part(SKY, [whole], camera.haze, "clouds", rng.uniform(2, 22))


def _backdrop(camera: Camera, label: int, rng: Rng) -> Part:
  """Far trees or roofs along the horizon."""
  if label == TREE:
    x = np.linspace(-0.2, 3.2, 40)
    rise = 0.05 + 0.03 * np.sin(7 * x + rng.uniform(0, 6)) + 0.012 * rng.standard_normal(40)
    material, texture, soft = "foliage", "leaves", 0.012
  else:
    x = np.repeat(np.linspace(-0.2, 3.2, 20), 2)[1:-1]
    rise = np.repeat(rng.uniform(0.02, 0.14, 19), 2)
    material, texture, soft = "masonry", "grain", 0.004
  rise = np.clip(rise * rng.uniform(0.5, 2.0), 0.005, 0.25)
  row = camera.horizon + camera.roll * (x - camera.centre)
  ridge = np.stack([x, row - rise], axis=1)
  points = np.concatenate([ridge, [[3.2, camera.horizon + 0.1], [-0.2, camera.horizon + 0.1]]])
  colour = camera.faded(draw_colour(rng, material), 60.0)
  return Part(label, [points], colour, texture, 10.0, soft=soft)


def _ground(camera: Camera, label: int, material: str, left: float, right: float, rng: Rng) -> Part:
  texture = ("grain", "clouds", "ripples")[rng.integers(3)]
  colour = draw_colour(rng, material)
  return Part(label, [camera.strip(left, right)], colour, texture, rng.uniform(3, 16))


def _line(camera: Camera, x: float, half: float, dashed: bool, colour: np.ndarray) -> Part:
  """A marking or kerb on the ground; its label is the ground's."""
  edges = np.geomspace(1.3, 60.0, 16)
  ends = list(zip(edges[:-1:2], edges[1::2], strict=True)) if dashed else [(1.3, 60.0)]
  quads = [camera.strip(x - half, x + half, near, far) for near, far in ends]
  return Part(UNLABELLED, quads, colour, alpha=0.7)


def _dappled(camera: Camera, left: float, right: float, rng: Rng) -> list[Part]:
  """Shadows that buildings and trees out of sight throw across the ground."""
  shades = []
  for _ in range(rng.integers(0, 4)):
    depth = rng.uniform(2.0, 25.0)
    corners = depth + np.array([0.0, 0.0, 1.0, 1.0]) * rng.uniform(0.5, 0.3 * depth + 1)
    x = np.array([left, right, right, left]) + rng.normal(0, 1.5, 4)
    shades.append(camera.project(x, 0.0, corners))
  dark = np.array([20.0, 22.0, 30.0])
  return [Part(UNLABELLED, shades, dark, alpha=rng.uniform(0.2, 0.55), soft=0.01)] if shades else []


def _row(camera: Camera, x: float, kinds: tuple[str, ...], rng: Rng) -> list[Part]:
  """Fronts along one side of the street, far to near."""
  cuts = [rng.uniform(1.5, 4.0)]
  while cuts[-1] < 70:
    cuts.append(cuts[-1] + rng.uniform(4.0, 9.0) * (1 + cuts[-1] / 25))
  parts: list[Part] = []
  for near, far in reversed(list(itertools.pairwise(cuts))):
    kind = kinds[rng.integers(len(kinds))]
    if kind != "gap":
      make = {"facade": objects.facade, "wall": objects.wall, "fence": objects.fence}[kind]
      parts += make(camera, x + rng.normal(0, 0.2), near, far, rng)
  return parts


def _scatter(
  camera: Camera, thing: Thing, count: tuple[int, int], lanes: tuple[tuple[float, float], ...],
  nearest: float, farthest: float, rng: Rng,
) -> Things:  # fmt: skip
  """Things at random places of the lanes, denser when near.

  Args:
    camera: that sees them.
    thing: draws one.
    count: at least the first, fewer than the second.
    lanes: (left, right) bounds, metres.
    nearest: metres ahead.
    farthest: metres ahead.
    rng: of the scene.
  """
  things: Things = []
  for _ in range(rng.integers(*count)):
    left, right = lanes[rng.integers(len(lanes))]
    depth = float(np.exp(rng.uniform(np.log(nearest), np.log(farthest))))
    mirror = 1.0 if rng.random() < 0.5 else -1.0
    things.append((depth, thing(Place(camera, rng.uniform(left, right), depth, mirror), rng)))
  return things


def _sorted(things: Things) -> list[Part]:
  return [part for _, parts in sorted(things, key=lambda t: -t[0]) for part in parts]


def city(rng: Rng) -> list[Part]:
  """A street between houses: road, pavements with people, poles, signs; traffic."""
  camera, road, walk = _camera(rng), rng.uniform(2.8, 5.5), rng.uniform(1.8, 4.5)
  edge = road + walk
  fronts = ("facade", "facade", "facade", "wall", "fence", "gap")
  sides, verges = ((-edge, -road), (road, edge)), ((-road - 0.6, -road), (road, road + 0.6))
  scatter = lambda thing, count, lanes, near=4.0, far=35.0: _scatter(  # noqa: E731
    camera, thing, count, lanes, near, far, rng
  )
  things = [
    *scatter(objects.car, (0, 5), ((-road + 0.8, road - 0.8),), 5.0, 45.0),
    *scatter(objects.bus, (0, 2), ((-road + 1, road - 1),), 9.0, 40.0),
    *scatter(objects.truck, (0, 2), ((-road + 1, road - 1),), 9.0, 40.0),
    *scatter(objects.person, (0, 6), (*sides, *sides, (-road, road))),
    *scatter(objects.cyclist, (0, 3), ((-road, road), *sides)),
    *scatter(objects.bicycle, (0, 3), sides, 4.0, 20.0),
    *scatter(objects.pole, (1, 5), verges),
    *scatter(objects.sign, (0, 4), verges, 4.0, 25.0),
    *scatter(objects.tree, (0, 3), verges, 6.0, 30.0),
  ]
  return [
    _sky(camera, rng),
    _backdrop(camera, BUILDING, rng),
    _ground(camera, PAVEMENT, "asphalt", -60.0, 60.0, rng),
    _ground(camera, ROAD, "asphalt", -road, road, rng),
    *[_line(camera, x, 0.08, False, draw_colour(rng, "asphalt")) for x in (-road, road)],
    _line(camera, 0.0, 0.07, True, _WHITE),
    *_dappled(camera, -edge, edge, rng),
    *_row(camera, -edge, fronts, rng),
    *_row(camera, edge, fronts, rng),
    *_sorted(things),
  ]


def highway(rng: Rng) -> list[Part]:
  """A wide road between grass, noise barriers and crash barriers; lorries, no people."""
  camera, road = _camera(rng), rng.uniform(6.0, 10.0)
  edge = road + rng.uniform(1.0, 4.0)
  fronts = [("wall", "wall", "gap"), ("fence", "fence", "gap"), ("gap",)]
  left, right = fronts[rng.integers(3)], fronts[rng.integers(3)]
  lane, verge = ((-road + 1, road - 1),), ((-edge, -road - 0.4), (road + 0.4, edge))
  beyond = ((-edge - 16, -edge - 2), (edge + 2, edge + 16))
  things = [
    *_scatter(camera, objects.car, (0, 6), lane, 6.0, 60.0, rng),
    *_scatter(camera, objects.truck, (0, 4), lane, 9.0, 60.0, rng),
    *_scatter(camera, objects.bus, (0, 3), lane, 9.0, 60.0, rng),
    *_scatter(camera, objects.pole, (0, 5), verge, 5.0, 50.0, rng),
    *_scatter(camera, objects.sign, (0, 3), verge, 5.0, 30.0, rng),
  ]
  if rng.random() < 0.5:
    depth = rng.uniform(10.0, 35.0)
    things.append((depth, objects.gantry(camera, edge, depth, rng)))
  behind = [
    *_scatter(camera, objects.tree, (0, 6), beyond, 12.0, 50.0, rng),
    *_scatter(camera, objects.bush, (0, 6), beyond, 12.0, 50.0, rng),
  ]
  marks = [_line(camera, x, 0.08, True, _WHITE) for x in (-road / 3, road / 3)]
  return [
    _sky(camera, rng),
    _backdrop(camera, TREE if rng.random() < 0.7 else BUILDING, rng),
    _ground(camera, GRASS, "foliage", -80.0, 80.0, rng),
    *_sorted(behind),
    _ground(camera, ROAD, "asphalt", -road, road, rng),
    *marks,
    *_dappled(camera, -road, road, rng),
    *_row(camera, -edge, left, rng),
    *_row(camera, edge, right, rng),
    *_sorted(things),
  ]


def park(rng: Rng) -> list[Part]:
  """A path through grass: it looks like a road, but in a park it is pavement. Maybe a pond."""
  camera, path = _camera(rng), rng.uniform(1.2, 3.5)
  way, lawn = ((-path, path),), ((-14.0, -path - 0.5), (path + 0.5, 14.0))
  things = [
    *_scatter(camera, objects.person, (0, 7), (*way, *lawn), 3.5, 30.0, rng),
    *_scatter(camera, objects.cyclist, (0, 4), way, 4.0, 25.0, rng),
    *_scatter(camera, objects.bicycle, (0, 4), (*way, *lawn), 4.0, 20.0, rng),
    *_scatter(camera, objects.tree, (2, 9), lawn, 5.0, 50.0, rng),
    *_scatter(camera, objects.bush, (0, 5), lawn, 6.0, 40.0, rng),
    *_scatter(camera, objects.pole, (0, 4), lawn, 4.0, 30.0, rng),
  ]
  pond = []
  if rng.random() < 0.5:
    side = 1 if rng.random() < 0.5 else -1
    shore = side * (path + rng.uniform(1.0, 3.0)), side * 40.0
    pond = [_ground(camera, WATER, "water", min(shore), max(shore), rng)]
  side_fence = _row(camera, rng.choice([-1, 1]) * (path + 0.8), ("fence", "gap"), rng)
  return [
    _sky(camera, rng),
    _backdrop(camera, TREE if rng.random() < 0.6 else BUILDING, rng),
    _ground(camera, GRASS, "foliage", -80.0, 80.0, rng),
    *pond,
    _ground(camera, PAVEMENT, "asphalt", -path, path, rng),
    *_dappled(camera, -path, path, rng),
    *(side_fence if rng.random() < 0.5 else []),
    *_sorted(things),
  ]


def harbour(rng: Rng) -> list[Part]:
  """A quay: water where a street has its road, houses on one side, masts and lorries."""
  camera, quay = _camera(rng), rng.uniform(3.0, 7.0)
  side = 1.0 if rng.random() < 0.5 else -1.0
  near, far = -side * rng.uniform(0.0, 2.0), side * quay
  inner = ((min(near, far) + 0.5, max(near, far) - 0.5),)
  out = near - side * np.array([4.0, 14.0])
  things = [
    *_scatter(camera, objects.person, (0, 6), inner, 4.0, 30.0, rng),
    *_scatter(camera, objects.cyclist, (0, 2), inner, 4.0, 20.0, rng),
    *_scatter(camera, objects.bicycle, (0, 3), inner, 4.0, 20.0, rng),
    *_scatter(camera, objects.truck, (0, 3), inner, 8.0, 35.0, rng),
    *_scatter(camera, objects.car, (0, 3), inner, 6.0, 35.0, rng),
    *_scatter(camera, objects.pole, (1, 7), (*inner, (out.min(), out.max())), 5, 50, rng),
    *_scatter(camera, objects.sign, (0, 3), inner, 4.0, 25.0, rng),
  ]
  fronts = ("facade", "facade", "wall", "gap")
  rail = _row(camera, near, ("fence", "gap"), rng) if rng.random() < 0.6 else []
  return [
    _sky(camera, rng),
    _backdrop(camera, BUILDING if rng.random() < 0.6 else TREE, rng),
    _ground(camera, WATER, "asphalt" if rng.random() < 0.5 else "water", -90.0, 90.0, rng),
    _ground(camera, PAVEMENT, "asphalt", min(near, side * 60), max(near, side * 60), rng),
    _line(camera, near, 0.12, False, draw_colour(rng, "asphalt")),
    *_dappled(camera, min(near, far), max(near, far), rng),
    *_row(camera, far, fronts, rng),
    *rail,
    *_sorted(things),
  ]


LAYOUTS = (city, city, highway, park, harbour)
