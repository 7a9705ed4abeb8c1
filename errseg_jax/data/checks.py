"""What a split holds and all that is wrong with it, from one pass over its samples."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable

import numpy as np
from rich.markup import escape
from rich.table import Table

from errseg_jax.data.datasets.base import Dataset, Source, repeats
from errseg_jax.data.faults import NOTES, Finding
from errseg_jax.data.survey import Facts, Fingerprint, survey
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
    together: int64 [C, C], number of samples that contain both classes; its diagonal is `present`.
    surroundings: int64 [C], labelled pixels of the samples that contain each class.
    ignored: number of pixels labelled 255.
    mean: float64 [3], of the images' RGB values, 0..255.
    std: float64 [3], their standard deviation.
    fingerprints: of the images.
    findings: all that is wrong.
  """

  split: str
  images: int
  sizes: dict[tuple[int, int], int]
  pixels: np.ndarray
  present: np.ndarray
  together: np.ndarray
  surroundings: np.ndarray
  ignored: int
  mean: np.ndarray
  std: np.ndarray
  fingerprints: tuple[Fingerprint, ...]
  findings: tuple[Finding, ...]

  @property
  def problems(self) -> tuple[str, ...]:
    """One line per thing that training would end at."""
    return tuple(finding.message for finding in self.findings if finding.fatal)

  @property
  def warnings(self) -> tuple[str, ...]:
    """One line per thing that is legal but suspicious."""
    return tuple(finding.message for finding in self.findings if not finding.fatal)

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
  dataset: Dataset,
  split: str,
  progress: Callable[[int, int], None] | None = None,
  threads: int = 1,
  scanned: tuple[Source, tuple[str, ...]] | None = None,
) -> CheckReport:
  """Reads every sample and counts; goes on after a bad one.

  Args:
    dataset: the data set.
    split: the split's name.
    progress: called with (samples done, samples) after each.
    threads: that read.
    scanned: what `dataset.scan` gave; None scans.

  Raises:
    UserError: there is no such split, or the config of the data set is wrong.
  """
  info = dataset.info
  source, problems = scanned or dataset.scan(split)
  findings = [Finding("unpaired", split, line) for line in problems]
  findings += [Finding("repeated", split, line) for line in repeats(source, split)]
  tally = _Tally(split, info.num_classes, findings)
  for done, found in enumerate(survey(source, info.num_classes, threads), start=1):
    if isinstance(found, UserError):
      tally.findings.append(Finding(getattr(found, "kind", "undecodable"), split, str(found)))
    else:
      tally.add(found)
    if progress:
      progress(done, len(source))
  report = tally.report()
  more = _of_the_whole(report, info, dataset.incomplete(split, len(source)))
  return dataclasses.replace(report, findings=(*report.findings, *more))


class _Tally:
  """Adds samples up; holds of each its fingerprint and what is wrong with it."""

  def __init__(self, split: str, classes: int, findings: list[Finding]):
    self.split, self.findings = split, findings
    self.sizes: collections.Counter[tuple[int, int]] = collections.Counter()
    self.pixels, self.surroundings = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    self.together = np.zeros((classes, classes), np.int64)
    self.ignored, self.prints = 0, list[Fingerprint]()
    self.sum, self.squares, self.colours = np.zeros(3), np.zeros(3), 0

  def add(self, facts: Facts) -> None:
    shown = facts.pixels > 0
    self.sizes[facts.size] += 1
    self.pixels += facts.pixels
    self.together += np.outer(shown, shown)
    self.surroundings += shown * facts.pixels.sum()
    self.ignored += facts.ignored
    self.sum, self.squares = self.sum + facts.colour_sum, self.squares + facts.colour_squares
    self.colours += facts.size[0] * facts.size[1]
    self.prints.append(facts.fingerprint)
    path = facts.fingerprint.path
    if not shown.any():
      line = f"{path}: no pixel of its label is of a class, all are {IGNORE}; label it or remove it"
      self.findings.append(Finding("all_ignored", self.split, line))
    self.findings += [Finding(kind, self.split, f"{path}: {NOTES[kind]}") for kind in facts.notes]

  def report(self) -> CheckReport:
    mean = self.sum / max(self.colours, 1)
    variance = self.squares / max(self.colours, 1) - mean**2
    return CheckReport(
      split=self.split,
      images=self.sizes.total(),
      sizes=dict(self.sizes),
      pixels=self.pixels,
      present=self.together.diagonal().copy(),
      together=self.together,
      surroundings=self.surroundings,
      ignored=self.ignored,
      mean=mean,
      std=np.sqrt(np.maximum(variance, 0)),
      fingerprints=tuple(self.prints),
      findings=tuple(self.findings),
    )


def _of_the_whole(report: CheckReport, info: DatasetInfo, incomplete: str) -> list[Finding]:
  """What no single sample shows."""
  found = [("incomplete", incomplete)] if incomplete else []
  if report.images:
    # The published test split lacks some classes too; that is no mistake of the user's.
    if missing := [info.classes[i] for i in report.absent if info.classes[i] not in info.absent]:
      names = ", ".join(missing)
      line = f"{report.split}: no pixel of {names}; these classes cannot be scored there: add images, or check the ids"
      found.append(("absent_class", line))
    if report.absent == (1,) and info.num_classes == 2 and report.ignored:
      line = f"{report.split}: labels hold 0 and 255 only; if 255 means foreground, set label_map to {{0: 0, 255: 1}}"
      found.append(("binary_mask", line))
    if report.ignore_share > _MUCH_IGNORED:
      line = f"{report.split}: {report.ignore_share:.0%} of the pixels are ignored (255); check label_map"
      found.append(("much_ignored", line))
  return [Finding(kind, report.split, line) for kind, line in found]


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
