"""Images that several splits share: what trained is no test."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from errseg_jax.data.faults import Finding
from errseg_jax.data.survey import Fingerprint

BITS = 32
"""Of 256, in which two images that look alike may differ: at three quarters of the size and compressed hard, images of
MSRC-21 differ from themselves in 30 at most; from each other in 56 at least, but for one pair that is the same."""
_CHUNK = 2048  # images of a split that are compared at a time with as many of another


def duplicates(found: Mapping[str, Sequence[Fingerprint]]) -> list[Finding]:
  """The same or almost the same images in two splits, one finding for each image of the later split.

  Args:
    found: fingerprints of the readable images of each split.
  """
  out = []
  for (first, ones), (second, others) in itertools.combinations(found.items(), 2):
    same = _same(ones, others)
    alike = {k: v for k, v in _alike(ones, others).items() if k not in same}
    for kind, pairs in (("duplicate", same), ("near_duplicate", alike)):
      for later, earlier in pairs.items():
        what = "is" if kind == "duplicate" else "looks like"
        message = (
          f"{others[later].path}: {what} {ones[earlier].path} of the split {first}; keep it in one of them"
        )
        out.append(Finding(kind, second, message))
  return out


def _same(ones: Sequence[Fingerprint], others: Sequence[Fingerprint]) -> dict[int, int]:
  """{place in others: place in ones} of equal images."""
  places = {one.content: i for i, one in enumerate(ones)}
  return {k: places[other.content] for k, other in enumerate(others) if other.content in places}


def _alike(ones: Sequence[Fingerprint], others: Sequence[Fingerprint]) -> dict[int, int]:
  """The same of images whose looks differ in few bits."""
  places, looks = _looks(ones)
  other_places, other_looks = _looks(others)
  if not places or not other_places:
    return {}
  out: dict[int, int] = {}
  for start in range(0, len(other_places), _CHUNK):
    part = other_looks[start : start + _CHUNK]
    most, best = np.full(len(part), -np.inf), np.zeros(len(part), int)
    for first in range(0, len(places), _CHUNK):
      # Of two vectors of signs the product counts the equal bits minus the others.
      equal = part @ looks[first : first + _CHUNK].T
      top = equal.max(1)
      best = np.where(top > most, first + equal.argmax(1), best)
      most = np.maximum(most, top)
    near = np.flatnonzero(most >= looks.shape[1] - 2 * BITS)
    out |= {other_places[start + k]: places[best[k]] for k in near}
  return out


def _looks(prints: Sequence[Fingerprint]) -> tuple[list[int], np.ndarray]:
  """Places of the images that are not flat, and their looks as signs, float32 [n, 256]."""
  places = [i for i, one in enumerate(prints) if one.look is not None]
  joined = b"".join(one.look for one in prints if one.look is not None)
  bits = np.unpackbits(np.frombuffer(joined, np.uint8)).reshape(-1, 256)
  return places, 2 * bits.astype(np.float32) - 1
