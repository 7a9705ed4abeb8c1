"""`errseg data check`: reads every sample of a split once and reports all that is wrong with it."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable

import numpy as np
from rich.markup import escape
from rich.table import Table

from errseg_jax.data.datasets.base import Dataset, Source
from errseg_jax.errors import UserError
from errseg_jax.structs import IGNORE, DatasetInfo

# Above it, most of the data set teaches and measures nothing.
_MUCH_IGNORED = 0.5


@dataclasses.dataclass(frozen=True)
class CheckReport:
  """What a split holds.

  Attributes:
    split: its name.
    images: number of samples that could be read.
    sizes: (height, width) -> number of samples.
    pixels: int64 [C], labelled pixels per class.
    present: int64 [C], number of samples that contain each class.
    ignored: number of pixels labelled 255.
    problems: one line per file that must be mended; empty where the split is sound.
    warnings: one line per thing that is legal but suspicious.
  """

  split: str
  images: int
  sizes: dict[tuple[int, int], int]
  pixels: np.ndarray
  present: np.ndarray
  ignored: int
  problems: tuple[str, ...]
  warnings: tuple[str, ...]

  @property
  def share(self) -> np.ndarray:
    """float64 [C], each class's share of the labelled pixels."""
    return self.pixels / max(int(self.pixels.sum()), 1)

  @property
  def ignore_share(self) -> float:
    """Share of all pixels that is ignored."""
    return self.ignored / max(self.ignored + int(self.pixels.sum()), 1)

  @property
  def absent(self) -> tuple[int, ...]:
    """Classes without a pixel."""
    return tuple(np.flatnonzero(self.present == 0).tolist())


def check_split(
  dataset: Dataset, split: str, progress: Callable[[int, int], None] | None = None
) -> CheckReport:
  """Reads every sample and counts; goes on after a bad one.

  Args:
    dataset: the data set.
    split: the split's name.
    progress: called with (samples done, samples) after each.

  Raises:
    UserError: there is no such split, or the config of the data set is wrong.
  """
  info = dataset.info
  source, problems = dataset.scan(split)
  counted, bad = _count(source, info.num_classes, progress)
  report = CheckReport(split=split, **counted, problems=(*problems, *bad), warnings=())
  incomplete = dataset.incomplete(split, len(source))
  return dataclasses.replace(report, warnings=_warnings(report, info, incomplete))


def _count(source: Source, classes: int, progress: Callable[[int, int], None] | None):
  sizes: collections.Counter[tuple[int, int]] = collections.Counter()
  pixels, present, ignored = np.zeros(classes, np.int64), np.zeros(classes, np.int64), 0
  problems: list[str] = []
  for index in range(len(source)):
    try:
      label = source[index]["label"]
    except UserError as error:
      problems.append(str(error))
    else:
      histogram = np.bincount(label.ravel(), minlength=IGNORE + 1)
      pixels += histogram[:classes]
      present += histogram[:classes] > 0
      ignored += int(histogram[IGNORE])
      sizes[label.shape] += 1
    if progress:
      progress(index + 1, len(source))
  counted = {
    "images": sizes.total(),
    "sizes": dict(sizes),
    "pixels": pixels,
    "present": present,
    "ignored": ignored,
  }
  return counted, problems


def _warnings(report: CheckReport, info: DatasetInfo, incomplete: str) -> tuple[str, ...]:
  found = [incomplete] if incomplete else []
  if not report.images:
    return tuple(found)
  # The published test split lacks some classes too; that is no mistake of the user's.
  if missing := [info.classes[i] for i in report.absent if info.classes[i] not in info.absent]:
    names = ", ".join(missing)
    found.append(
      f"{report.split}: no pixel of {names}; these classes cannot be scored there: add images, or "
      "check the class ids"
    )
  if report.absent == (1,) and info.num_classes == 2 and report.ignored:
    found.append(
      f"{report.split}: labels hold 0 and 255 only; if 255 means foreground, set label_map to "
      "{0: 0, 255: 1}"
    )
  if report.ignore_share > _MUCH_IGNORED:
    found.append(
      f"{report.split}: {report.ignore_share:.0%} of the pixels are ignored (255); check label_map"
    )
  return tuple(found)


def render_table(report: CheckReport, info: DatasetInfo) -> Table:
  """Per class: pixels, share of the labelled pixels, images that contain it."""
  sizes = sorted(report.sizes.items(), key=lambda item: -item[1])
  listed = ", ".join(f"{width}x{height} ({count})" for (height, width), count in sizes[:3])
  more = f" and {len(sizes) - 3} more sizes" if len(sizes) > 3 else ""
  table = Table(
    title=f"{info.name} {report.split}: {report.images} images",
    caption=f"sizes: {listed or 'none'}{more}; ignored: {report.ignore_share:.1%} of the pixels",
  )
  table.add_column("class")
  for heading in ("id", "pixels", "share", "images"):
    table.add_column(heading, justify="right")
  for index, name in enumerate(info.classes):
    images = str(report.present[index]) if report.present[index] else "absent"
    share = f"{report.share[index]:.2%}"
    table.add_row(escape(name), str(index), f"{report.pixels[index]:,}", share, images)
  return table
