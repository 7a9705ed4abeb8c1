"""`errseg label-issues`: images and regions whose annotation the network contradicts, ranked."""

from __future__ import annotations

import csv
import dataclasses
import heapq
import io
import json
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from errseg_jax import assemble
from errseg_jax.data.regions import regions
from errseg_jax.data.splits import Subset
from errseg_jax.errors import UserError
from errseg_jax.inference.choice import Choice
from errseg_jax.inference.evaluator import make_evaluator
from errseg_jax.inference.label_quality import RANKINGS, make_judge
from errseg_jax.progress import progress_bar
from errseg_jax.report.html import write_atomically
from errseg_jax.report.issues import IssueCrop, crop, write_page
from errseg_jax.sharding import make_mesh, place
from errseg_jax.structs import IGNORE, DatasetInfo
from errseg_jax.train.restore import resting_variables
from errseg_jax.train.stages import plan, trained_branches

AGREES = -1  # in a map of contradictions: the label is missing or the network agrees with it
SMALLEST = 1 / 4000  # of the image: regions below that are specks at the borders of objects
REGION_COLUMNS = (
  "rank", "image", "left", "top", "width", "height", "pixels", "given", "predicted", "evidence", "score",
)  # fmt: skip
IMAGE_COLUMNS = ("image", "quality", "contradicted_share", "labelled_pixels")


@dataclasses.dataclass(frozen=True)
class Issue:
  """A region whose given class the network contradicts.

  Attributes:
    image: its image's name.
    box: rows and columns of the label map.
    given: annotated class.
    predicted: the network's.
    pixels: of the region.
    evidence: mean log-odds (natural) of the predicted against the given class over them.
    score: what it is ranked by, `region_score`.
  """

  image: str
  box: tuple[slice, slice]
  given: int
  predicted: int
  pixels: int
  evidence: float
  score: float


@dataclasses.dataclass
class Found:
  """What a pass over a split found.

  Attributes:
    top: issues remembered.
    heap: (score, -order, Issue) of the best `top` so far.
    regions: number of all, ranked or not.
    images: (name, quality, contradicted pixels, labelled pixels) of every labelled image.
    unlabelled: images without a labelled pixel.
  """

  top: int
  heap: list[tuple[float, int, Issue]] = dataclasses.field(default_factory=list)
  regions: int = 0
  images: list[tuple[str, float, int, int]] = dataclasses.field(default_factory=list)
  unlabelled: int = 0

  def add(self, name: str, row: dict[str, np.ndarray], num_classes: int) -> None:
    """Adds one image: a row of what `verdict` gives, and its "label"."""
    if not row["labelled"]:
      self.unlabelled += 1
      return
    quality, against, labelled = (row[k].item() for k in ("quality", "contradicted", "labelled"))
    self.images.append((name, quality, against, labelled))
    for issue in find_issues(name, row["label"], row["predicted"], row["evidence"], num_classes):
      self.regions += 1
      heapq.heappush(self.heap, (issue.score, -self.regions, issue))
      if len(self.heap) > self.top:
        heapq.heappop(self.heap)

  def ranked(self) -> list[Issue]:
    """The issues, the likeliest label error first."""
    return [issue for _, _, issue in sorted(self.heap, key=lambda entry: entry[:2], reverse=True)]


def region_score(evidence: float, pixels: int) -> float:
  """How likely a region is a label error worth a look: mean log-odds times the logarithm of its pixels.

  Where the network errs it mostly leaves the true class some probability, at a label error none: log-odds tell these
  apart, the probability of the predicted class does not. Pixels of one region repeat each other, so that the
  sum would rank by area alone; the logarithm only holds specks down.
  """
  return evidence * math.log(pixels)


def find_issues(
  name: str, label: np.ndarray, predicted: np.ndarray, evidence: np.ndarray, num_classes: int
) -> Iterator[Issue]:
  """The connected regions of one given and one predicted class that differ.

  Args:
    name: of the image.
    label: uint8 [H, W], given; 255 contradicts nothing.
    predicted: uint8 [H, W].
    evidence: float32 [H, W], of `verdict`.
    num_classes: C.
  """
  pair = label.astype(np.int32) * num_classes + predicted
  pair[(label == IGNORE) | (label == predicted)] = AGREES
  smallest = max(2, round(SMALLEST * (label != IGNORE).sum()))
  for region in regions(pair, AGREES, smallest):
    mean = float(evidence[region.box][region.mask].mean())
    score = region_score(mean, region.pixels)
    yield Issue(name, region.box, *divmod(region.value, num_classes), region.pixels, mean, score)


class Judge:
  """A trained network that judges the labels of a source.

  Args:
    config: of the workdir.
    workdir: of a finished run.
    info: classes.
    by: one of RANKINGS.

  Raises:
    UserError: an unknown ranking, one that needs a branch that the run did not train, or a damaged workdir.
  """

  def __init__(self, config: ConfigDict, workdir: pathlib.Path, info: DatasetInfo, by: str):
    assemble.known(by, RANKINGS, "--by")
    wanted = trained_branches(plan(config))
    if by == "max_probability":
      wanted = ()
    elif "error" not in wanted:
      raise UserError(f"{workdir}: this run trained no error branch (config.order); use --by=max_probability")
    # Without both branches nothing is fused, and choice.json does not exist.
    choice = Choice.load(workdir) if "detail" in wanted else Choice()
    model, mesh = assemble.model(config, info.num_classes), make_mesh(config.num_devices)
    self.variables = place(resting_variables(config, workdir, model, with_crf=False), mesh)
    self.evaluator = make_evaluator(config, mesh)
    self.choice = choice.arrays()
    self.judge = make_judge(model, by=by, fusion=choice.fusion, wanted=wanted)

  def __call__(self, source: Any) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """(name, row of `verdict` and "label") of every image, one batch behind the device."""
    waiting: Any = None
    for batch, names in self.evaluator.batches(source):
      found = self.judge(self.variables, batch, self.choice) | {"label": batch.label}
      if waiting is not None:
        yield from _rows(*waiting)
      waiting = found, names
    if waiting is not None:
      yield from _rows(*waiting)


def _rows(found: dict[str, jax.Array], names: Sequence[str]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
  host = jax.device_get(found)
  for i, name in enumerate(names):
    yield name, {k: v[i] for k, v in host.items()}


def rank(judge: Judge, source: Any, num_classes: int, top: int) -> Found:
  """One pass over a labelled source; memory holds `top` issues and a line per image."""
  found = Found(top)
  with progress_bar("label-issues", len(source)) as show:
    for done, (name, row) in enumerate(judge(source), 1):
      found.add(name, row, num_classes)
      show(done)
  return found


def label_issues(
  config: ConfigDict, workdir: pathlib.Path, split: str, out: pathlib.Path, *, top: int, by: str
) -> pathlib.Path:
  """Ranks the annotations of a split; writes label_issues.csv, .json and .html, and images.csv.

  Args:
    config: of the workdir.
    workdir: of a finished run.
    split: of its data set.
    out: folder for the files; those of an earlier call are replaced.
    top: regions that are listed and shown.
    by: one of RANKINGS.

  Returns:
    The path of label_issues.html.

  Raises:
    UserError: an argument, the workdir, the split or a file of it is wrong.
  """
  if top < 1:
    raise UserError(f"--top={top} must be at least 1")
  dataset = assemble.dataset(config)
  info = dataset.info
  source, unpaired = dataset.scan(split)  # an image without a label is passed over here, and counted
  judge = Judge(config, workdir, info, by)
  try:
    out.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--out={out} cannot be made ({error.strerror}); name another folder") from None
  found = rank(judge, source, info.num_classes, top)
  issues = found.ranked()
  crops = make_crops(judge, source, issues, info)
  summary = {
    "schema": 1,
    "dataset": config.data.name,
    "split": split,
    "by": by,
    "num_images": len(found.images),
    "unlabelled": found.unlabelled,
    "unpaired": len(unpaired),
    "regions": found.regions,
  }
  rows = [issue_row(number, issue, info) for number, issue in enumerate(issues, 1)]
  write_csv(out / "label_issues.csv", REGION_COLUMNS, [row.values() for row in rows])
  write_csv(out / "images.csv", IMAGE_COLUMNS, image_rows(found))
  write_atomically(out / "label_issues.json", json.dumps({**summary, "issues": rows}, indent=1) + "\n")
  path = out / "label_issues.html"
  write_page(path, summary, crops, info)
  return path


def issue_row(number: int, issue: Issue, info: DatasetInfo) -> dict[str, Any]:
  """An issue as a row of REGION_COLUMNS; pixels of the label map, from its top left corner."""
  rows, columns = issue.box
  values = (
    number,
    issue.image,
    columns.start,
    rows.start,
    columns.stop - columns.start,
    rows.stop - rows.start,
    issue.pixels,
    info.classes[issue.given],
    info.classes[issue.predicted],
    round(issue.evidence, 3),
    round(issue.score, 3),
  )
  return dict(zip(REGION_COLUMNS, values, strict=True))


def image_rows(found: Found) -> list[tuple]:
  """IMAGE_COLUMNS of every labelled image, the lowest label quality first; the share in percent."""
  worst_first = sorted(found.images, key=lambda image: (image[1], image[0]))
  return [(n, f"{q:.4f}", f"{100 * bad / total:.2f}", total) for n, q, bad, total in worst_first]


def make_crops(judge: Judge, source: Any, issues: Sequence[Issue], info: DatasetInfo) -> list[IssueCrop]:
  """Pictures of the issues, in their order; only their images are read and predicted again."""
  place = {name: i for i, name in enumerate(source.names)}
  wanted: dict[str, list[int]] = {}
  for number, issue in enumerate(issues):
    wanted.setdefault(issue.image, []).append(number)
  if not wanted:
    return []
  part = Subset(source, np.array([place[name] for name in wanted]))
  crops: dict[int, IssueCrop] = {}
  for name, row in judge(part):
    sample = source[place[name]]
    for number in wanted[name]:
      texts = {k: str(v) for k, v in issue_row(number + 1, issues[number], info).items()}
      maps = sample["image"], sample["label"], row["predicted"]
      crops[number] = crop(*maps, issues[number].box, texts, info)
  return [crops[number] for number in range(len(issues))]


def write_csv(path: pathlib.Path, columns: Sequence[str], rows: Sequence[Any]) -> None:
  """A table, whole or not at all."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(columns)
  writer.writerows(rows)
  write_atomically(path, text.getvalue())
