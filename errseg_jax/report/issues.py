"""Writes label_issues.html: doubtful annotations as crops, one file that needs no network."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from errseg_jax.report.html import data_uri, render, write_atomically
from errseg_jax.structs import IGNORE, DatasetInfo

LONGEST = 320  # pixels of a crop's longer side
MARGIN, LEAST_MARGIN = 0.6, 24  # around a region: share of its longer side, and pixels


@dataclasses.dataclass(frozen=True)
class IssueCrop:
  """One issue on the page.

  Attributes:
    texts: "rank", "image", "given", "predicted", "score", "evidence", "pixels", "left", "top", as shown.
    image: data URI of the crop.
    given: the same of the annotation.
    predicted: the same of the network's labels.
    width: of the crops, in pixels.
    height: the same.
  """

  texts: Mapping[str, str]
  image: str
  given: str
  predicted: str
  width: int
  height: int


def window(box: tuple[slice, slice], shape: tuple[int, int]) -> tuple[slice, slice]:
  """The box with a margin, within a map of `shape`."""
  longer = max(part.stop - part.start for part in box)
  margin = max(LEAST_MARGIN, round(MARGIN * longer))
  rows, columns = (
    slice(max(0, part.start - margin), min(size, part.stop + margin))
    for part, size in zip(box, shape, strict=True)
  )
  return rows, columns


def crop(
  image: np.ndarray,
  given: np.ndarray,
  predicted: np.ndarray,
  box: tuple[slice, slice],
  texts: Mapping[str, str],
  info: DatasetInfo,
) -> IssueCrop:
  """Pictures of one region, which is framed.

  Args:
    image: uint8 [H, W, 3], RGB.
    given: uint8 [H, W], annotation; 255 = ignore, drawn black.
    predicted: uint8 [H', W'], H' >= H and W' >= W; what is beyond the image is padding.
    box: rows and columns of the region.
    texts: see IssueCrop.
    info: classes and colours.
  """
  palette = np.zeros((256, 3), np.uint8)
  palette[: info.num_classes] = info.palette
  palette[IGNORE] = 0
  shown = window(box, given.shape)
  # Shrunk only: a browser enlarges, and says less than a small file does with more pixels.
  scale = min(1.0, LONGEST / max(part.stop - part.start for part in shown))
  frame = [
    round(scale * (edge - part.start))
    for inner, part in zip(box, shown, strict=True)
    for edge in (inner.start, inner.stop)
  ]
  pictures = []
  for values, how in ((image, cv2.INTER_AREA), (given, cv2.INTER_NEAREST), (predicted, cv2.INTER_NEAREST)):
    part = values[shown] if values.ndim == 3 else palette[values[shown]]
    size = [max(1, round(scale * n)) for n in part.shape[1::-1]]
    pictures.append(_framed(cv2.resize(part, size, interpolation=how), *frame))
  photo = data_uri(pictures[0], "jpeg", quality=85)
  maps = [data_uri(picture, "png", optimize=True) for picture in pictures[1:]]
  height, width = pictures[0].shape[:2]
  return IssueCrop(dict(texts), photo, maps[0], maps[1], width, height)


def _framed(picture: np.ndarray, top: int, bottom: int, left: int, right: int) -> np.ndarray:
  # Black around white is seen on every colour; outside the region, which stays as it is.
  for margin, colour in ((2, (0, 0, 0)), (1, (255, 255, 255))):
    cv2.rectangle(picture, (left - margin, top - margin), (right - 1 + margin, bottom - 1 + margin), colour)
  return picture


def write_page(
  path: pathlib.Path, summary: Mapping[str, Any], crops: Sequence[IssueCrop], info: DatasetInfo
) -> None:
  """Writes the page; a reader of `path` sees the old file or the whole new one.

  Args:
    path: the HTML file to write.
    summary: "dataset", "split", "by", "num_images", "unlabelled", "unpaired", "regions".
    crops: the issues, the likeliest first.
    info: class names and colours.
  """
  html = render(
    "label_issues.html.jinja",
    summary=summary,
    crops=crops,
    colours=dict(zip(info.classes, info.palette, strict=True)),
  )
  write_atomically(path, html)
