"""The images of a report: which ones, with what is seen of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from errseg_jax.data.scores import joined
from errseg_jax.errors import UserError
from errseg_jax.inference.image_log import Extremes, ImageScores
from errseg_jax.inference.network import TrainedNetwork
from errseg_jax.progress import progress_bar
from errseg_jax.structs import IGNORE

SHARES = {"worst": 3, "gained": 1, "lost": 1, "best": 1}
"""Reasons why an image is shown, and how many there are of each for how many of the others."""


@dataclasses.dataclass(frozen=True)
class GalleryItem:
  """One image of the gallery.

  Attributes:
    name: the image's name.
    image: uint8 [H, W, 3], RGB.
    truth: uint8 [H, W], train ids, 255 = ignore.
    semantic: uint8 [H, W], labels of the frozen network.
    detail: uint8 [H, W], labels of the detail branch.
    error_probability: float32 [H, W], 0..1.
    accuracy: percent of the labelled pixels that `semantic` has right, None without any.
    fused_accuracy: the same of the corrected labels, as chosen.
    expected: the accuracy that P(error) lets expect, None where it says nothing.
    reasons: of SHARES.
  """

  name: str
  image: np.ndarray
  truth: np.ndarray
  semantic: np.ndarray
  detail: np.ndarray
  error_probability: np.ndarray
  accuracy: float | None
  fused_accuracy: float | None
  expected: float | None = None
  reasons: tuple[str, ...] = ()


def fits(reason: str, scores: ImageScores) -> bool:
  """Whether an image may stand for a reason: one that correction left alone has neither gained nor lost."""
  if reason in ("gained", "lost"):
    return (scores.fused > scores.accuracy) == (reason == "gained") and scores.fused != scores.accuracy
  return True


def picked(extremes: Extremes, count: int) -> dict[str, tuple[str, ...]]:
  """Up to `count` images and the reasons why they are shown, the worst first.

  Each reason has its share; what one cannot fill the others do, in the order of SHARES.
  """
  lists = {
    reason: [scores.name for scores in extremes.first(reason) if fits(reason, scores)] for reason in SHARES
  }
  count = min(count, len({name for names in lists.values() for name in names}))
  whole = sum(SHARES.values())
  reasons: dict[str, list[str]] = {}
  for reason, share in SHARES.items():
    for name in lists[reason][: -(-count * share // whole)]:
      reasons.setdefault(name, []).append(reason)
  for reason in SHARES:
    for name in lists[reason]:
      if len(reasons) < count and name not in reasons:
        reasons[name] = [reason]
  return {name: tuple(why) for name, why in list(reasons.items())[:count]}


def make_gallery(
  network: TrainedNetwork, source: Any, reasons: Mapping[str, Sequence[str]]
) -> list[GalleryItem]:
  """The named images with their predictions, in that order.

  Raises:
    UserError: the data set has an image no more.
  """
  place = {name: i for i, name in enumerate(source.names)}
  items = []
  with progress_bar("report: images", len(reasons)) as show:
    for name, why in reasons.items():
      if name not in place:
        raise UserError(f"image {name} of the evaluation is not in the data set any more: evaluate again")
      items.append(_item(network, source[place[name]], name, tuple(why)))
      show(len(items))
  return items


def _item(
  network: TrainedNetwork, sample: dict[str, Any], name: str, reasons: tuple[str, ...]
) -> GalleryItem:
  out = network.predict(joined(sample)["image"])
  labels, semantic, probability = (
    np.asarray(x) for x in (out.labels, out.semantic_labels, out.error_probability)
  )
  truth = sample["label"]
  valid = truth != IGNORE
  return GalleryItem(
    name,
    sample["image"],
    truth,
    semantic,
    np.asarray(out.detail_labels),
    probability,
    _mean(semantic == truth, valid),
    _mean(labels == truth, valid),
    _mean(1 - probability, valid),
    reasons,
  )


def _mean(values: np.ndarray, valid: np.ndarray) -> float | None:
  """Percent."""
  return float(100 * values[valid].mean()) if valid.any() else None
