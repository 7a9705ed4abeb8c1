"""The words and tables of the report: results in, plain strings out (the template escapes them)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from errseg_jax.metrics import errors, segmentation
from errseg_jax.structs import DatasetInfo

UNDEFINED = "–"
FLAGGED = 10  # percent of the pixels that somebody could look at
ISSUES = 10  # rows of the table of doubtful annotations
SYSTEMS = {
  "semantic": "network",
  "base": "network without guidance and subnets",
  "control": "network, trained on for as long",
  "detail": "detail branch alone",
  "fused": "corrected",
  "crf": "corrected, smoothed by the CRF",
  "oracle": "corrected, if the image’s classes were known",
}
SEGMENTATION_SCORES = {
  "mIoU": "mean IoU of the classes",
  "aAcc": "pixels that are right",
  "mAcc": "mean over classes of theirs that are right",
  "mDice": "mean Dice of the classes",
  "mBIoU": "mean IoU near borders",
}
ERROR_SCORES = {
  "error": "P(error)",
  "detail_disbelief": "detail branch’s disbelief",
  "max_probability": "1 − max probability",
  "temperature": "1 − max probability, temperature-scaled",
  "entropy": "entropy",
  "margin": "margin",
  "mc_dropout": "dropout passes",
  "tta": "augmented images",
}
HIGHER_IS_BETTER = {
  "AUROC": True,
  "AUPR_error": True,
  "AUPR_success": True,
  "FPR95": False,
  "AURC": False,
  "AUGRC": False,
  "ECE": False,
}


@dataclasses.dataclass(frozen=True)
class Cell:
  """One cell of a table.

  Attributes:
    text: what it says.
    note: a smaller text behind it, such as a difference.
    kind: "", "good", "bad" or "best": how it is drawn.
    swatch: a CSS colour drawn before the text, or "".
  """

  text: str
  note: str = ""
  kind: str = ""
  swatch: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
  """A table: a caption, column heads, and rows whose first cell is the head of the row.

  Attributes:
    caption: what the table holds.
    columns: heads of the columns.
    rows: their cells.
    words: the columns, beside the first, that hold words in place of numbers.
  """

  caption: str
  columns: tuple[str, ...]
  rows: tuple[tuple[Cell, ...], ...]
  words: tuple[str, ...] = ()


def number(value: float | None, digits: int = 2) -> str:
  """A score as text; a dash where it is undefined."""
  return UNDEFINED if value is None else f"{value:.{digits}f}".replace("-", "−")


def _difference(value: float | None, reference: float | None) -> float | None:
  return None if value is None or reference is None else value - reference


def _signed(value: float | None) -> str:
  return "" if value is None else f"{value:+.2f}".replace("-", "−")


def _kind(difference: float | None) -> str:
  if difference is None or abs(difference) < 0.005:
    return ""
  return "good" if difference > 0 else "bad"


def with_difference(value: float | None, reference: float | None) -> Cell:
  """A score, and how far it is from the reference."""
  difference = _difference(value, reference)
  return Cell(number(value), _signed(difference), _kind(difference))


def _change(results: Mapping, system: str) -> float | None:
  return _difference(results[system]["mIoU"], results["semantic"]["mIoU"])


def _correction_sentence(results: Mapping) -> str:
  before, after = results["semantic"]["mIoU"], results["fused"]["mIoU"]
  change = _change(results, "fused")
  if change is None:
    return "The mIoU is undefined: no labelled pixel was seen."
  count = results["num_images"]
  images = "On 1 image" if count == 1 else f"On {count} images"
  if abs(change) < 0.005:
    return f"{images} the corrected labels have the network’s mIoU, {number(after)}."
  better = f"{number(abs(change))} mIoU {'better' if change > 0 else 'worse'}"
  sentence = f"{images} the corrected labels are {better} ({number(before)} → {number(after)})"
  extremes = _class_changes(results, change > 0)
  return f"{sentence}; most {'gained' if change > 0 else 'lost'}: {extremes}." if extremes else f"{sentence}."


def _class_changes(results: Mapping, gained: bool, count: int = 3) -> str:
  """The classes whose IoU changed most for the better, or the worse, with their change."""
  base = results["semantic"]["IoU"]
  changes = {name: _difference(value, base.get(name)) for name, value in results["fused"]["IoU"].items()}
  told = {name: change for name, change in changes.items() if change is not None}
  first = sorted(told, key=lambda name: -told[name] if gained else told[name])[:count]
  return ", ".join(
    f"{n} {_signed(told[n])}" for n in first if (told[n] > 0.005 if gained else told[n] < -0.005)
  )


def _control_sentence(results: Mapping) -> str:
  control, fused = results["control"]["mIoU"], results["fused"]["mIoU"]
  lead = _difference(fused, control)
  if lead is None:
    return ""
  verdict = "correction pays" if lead > 0 else "correction does not pay here"
  return (
    "Training the network on for as many steps as the branches took gives "
    f"{number(control)} ({_signed(_change(results, 'control'))}): {verdict}."
  )


def _detection_sentence(histograms: Mapping) -> str:
  if "error" not in histograms:
    return ""
  found = errors.recall_at(histograms["error"], FLAGGED)
  if found is None:
    return "The network makes no error."
  sentence = f"P(error) finds {number(found, 0)} % of the errors in {FLAGGED} % of the pixels"
  free = "max_probability" in histograms and errors.recall_at(histograms["max_probability"], FLAGGED)
  return (
    f"{sentence}; 1 − max probability, which is free, finds {number(free, 0)} %." if free else f"{sentence}."
  )


def headline(results: Mapping, histograms: Mapping[str, np.ndarray]) -> str:
  """What came out, in two or three sentences.

  Args:
    results: the content of results.json.
    histograms: score name -> integer [2, 4096].
  """
  sentences = [_correction_sentence(results)] if results.get("fused") else []
  if results.get("control") and results.get("fused"):
    sentences.append(_control_sentence(results))
  sentences.append(_detection_sentence(histograms))
  return " ".join(filter(None, sentences))


def segmentation_table(results: Mapping) -> Table:
  """One row per system with its difference to the frozen network."""
  base = results["semantic"]
  names = [n for n in SEGMENTATION_SCORES if n in base]
  rows = []
  for system, label in SYSTEMS.items():
    scores = results.get(system)
    if system == "semantic":
      rows.append((Cell(label), *(Cell(number(base[n])) for n in names)))
    elif scores:
      head = Cell(label, kind="best" if system == "fused" else "")
      rows.append((head, *(with_difference(scores.get(n), base[n]) for n in names)))
  told = "; ".join(f"{name}: {SEGMENTATION_SCORES[name]}" for name in names)
  caption = f"Percent, over all labelled pixels; behind it the difference to the network. {told}."
  return Table(caption, ("", *names), tuple(rows))


def class_table(results: Mapping, info: DatasetInfo) -> Table:
  """IoU of each class, one column per system."""
  systems = [s for s in SYSTEMS if results.get(s)]
  base = results["semantic"]["IoU"]
  rows = []
  for name, colour in zip(info.classes, info.palette, strict=True):
    head = Cell(name, swatch="#{:02x}{:02x}{:02x}".format(*colour))
    others = (with_difference(results[s]["IoU"].get(name), base.get(name)) for s in systems[1:])
    rows.append((head, Cell(number(base.get(name))), *others))
  caption = "IoU in percent; – is a class that is neither in the truth nor predicted."
  return Table(caption, ("class", *(SYSTEMS[s] for s in systems)), tuple(rows))


def _best(rows: Sequence[Mapping], name: str) -> float | None:
  values = [row[name] for row in rows if row.get(name) is not None]
  if not values:
    return None
  return max(values) if HIGHER_IS_BETTER[name] else min(values)


def error_score_table(error: Mapping) -> Table:
  """Threshold-free scores of P(error) and of what the network gives for free."""
  scores = {"error": error, **error.get("baselines", {})}
  best = {name: _best(list(scores.values()), name) for name in HIGHER_IS_BETTER}
  rows = []
  for key, row in scores.items():
    cells = (
      Cell(number(row.get(n)), kind="best" if row.get(n) == best[n] is not None else "")
      for n in HIGHER_IS_BETTER
    )
    rows.append((Cell(ERROR_SCORES.get(key, key)), *cells))
  heads = (f"{n} {'↑' if up else '↓'}" for n, up in HIGHER_IS_BETTER.items())
  caption = "Percent, all labelled pixels pooled; ↑ higher is better, ↓ lower is better, bold: best."
  return Table(caption, ("score", *heads), tuple(rows))


def convention_table(error: Mapping) -> Table | None:
  """The same detection under the other conventions of the literature, if they were computed."""
  conventions = {k: v for k, v in error.get("conventions", {}).items() if v}
  if not conventions:
    return None
  names = list(dict.fromkeys(name for scores in conventions.values() for name in scores))
  rows = tuple(
    (Cell(key.replace("_", " ")), *(Cell(number(scores.get(n))) for n in names))
    for key, scores in conventions.items()
  )
  caption = "Error detection under other conventions of the literature; of P(error) where no score is named."
  return Table(caption, ("convention", *names), rows)


def threshold_table(results: Mapping) -> Table:
  """The sweep over t; the row of the chosen threshold is marked."""
  chosen = (results.get("chosen") or {}).get("threshold")
  rows = []
  for row in results["error"]["by_threshold"]:
    is_chosen = chosen is not None and abs(row["t"] - chosen) < 1e-9
    head = Cell(f"{row['t']:g}", "chosen" if is_chosen else "", "best" if is_chosen else "")
    scores = (Cell(number(row.get(n))) for n in ("IoU", "hard_recall"))
    rows.append((head, *scores, with_difference(row.get("mIoU"), results["semantic"]["mIoU"])))
  caption = (
    "A pixel is flagged where P(error) > t. IoU of the flagged with the wrong pixels, share of "
    "the confident errors that are flagged, and mIoU when flagged pixels take the detail label."
  )
  return Table(caption, ("t", "error IoU", "hard recall", "mIoU"), tuple(rows))


def confusion_table(semantic: np.ndarray, fused: np.ndarray, classes: Sequence[str], k: int = 10) -> Table:
  """The most confused pairs of the network, and what correction makes of them."""
  index = {name: i for i, name in enumerate(classes)}
  rows = []
  for truth, predicted, share in segmentation.top_confusions(semantic, classes, k):
    i, j = index[truth], index[predicted]
    after = 100 * float(fused[i, j]) / max(float(fused[i].sum()), 1.0)
    note = Cell(number(after), _signed(after - share), _kind(share - after))
    rows.append((Cell(truth), Cell(predicted), Cell(number(share)), note))
  caption = "Most confused pairs: percent of the true class's pixels."
  return Table(caption, ("truth", "taken for", "network", "corrected"), tuple(rows), ("taken for",))


def image_level_table(scores: Mapping) -> Table:
  """How well an image's accuracy is foreseen from its error map."""
  labels = {
    "mIoU_img": "mean over images of the image's mIoU",
    "accuracy_mae": "expected against true accuracy of an image: mean absolute error",
    "accuracy_corr": "expected against true accuracy of an image: correlation",
    "mIoU_mae": "expected against true mIoU of an image: mean absolute error",
    "mIoU_corr": "expected against true mIoU of an image: correlation",
  }
  rows = tuple((Cell(labels.get(k, k)), Cell(number(v))) for k, v in scores.items())
  return Table("Scores of whole images.", ("", "value"), rows)


def speed_table(speed: Mapping) -> Table:
  """Milliseconds per image and what the branches add."""
  names = {"semantic_ms": "network", "error_ms": "error branch", "detail_ms": "detail branch"}
  base = speed.get("semantic_ms")
  rows = []
  for key, label in names.items():
    value = speed.get(key)
    share = None if value is None or not base else 100 * value / base
    rows.append((Cell(label), Cell(number(value, 1)), Cell(number(share, 0))))
  return Table("Time of one image.", ("part", "ms", "% of the network"), tuple(rows))


def issue_table(found: Mapping) -> Table:
  """The first doubtful annotations.

  Args:
    found: the content of label_issues.json.
  """
  names = ("image", "given", "predicted", "pixels", "score")
  rows = tuple(
    (Cell(str(row.get("rank", ""))), *(Cell(str(row.get(name, ""))) for name in names))
    for row in found["issues"][:ISSUES]
  )
  caption = (
    f"The {len(rows)} most doubtful of the annotations of split {found.get('split', '')}; the others, with crops, "
    "are in label_issues/label_issues.html of the workdir."
  )
  words = ("image", "annotated", "network says")
  return Table(caption, ("rank", *words, "pixels", "score"), rows, words)


def version_table(versions: Mapping[str, str]) -> Table:
  """What the scores were computed with."""
  rows = tuple((Cell(name), Cell(version)) for name, version in versions.items())
  return Table("What the scores were computed with.", ("", "version"), rows, ("version",))
