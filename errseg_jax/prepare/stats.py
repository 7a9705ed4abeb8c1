"""`errseg data stats`: what the classes, sizes and colours of a split are, and the weights that follow from them."""

from __future__ import annotations

import io
import json
import pathlib
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from errseg_jax.data.checks import CheckReport
from errseg_jax.errors import UserError
from errseg_jax.pixel_losses import class_weights
from errseg_jax.prepare.check import surveyed
from errseg_jax.structs import DatasetInfo

SHOWN = 20  # sizes in a table
WEIGHTS = ("inverse", "inverse_sqrt", "median_frequency")


def stats(config: ConfigDict, split: str, out: pathlib.Path | None, as_json: bool) -> None:
  """Counts a split, prints it as a table or as JSON, and writes both and a plot to a folder.

  Args:
    config: of a data set.
    split: of it; "" takes the one that trains.
    out: folder for stats.json and stats.svg; None writes nothing.
    as_json: print the content of stats.json in place of the table.

  Raises:
    UserError: no sample of the split can be read, or its data set is unknown.
  """
  dataset, (report,), _ = surveyed(config, split or config.splits.train)
  if not report.images:
    raise UserError(f"{report.split}: no sample can be read; {report.problems[0]}")
  found = as_object(dataset.info, report)
  if out is not None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "stats.json").write_text(json.dumps(found, indent=1))
    (out / "stats.svg").write_text(plot(dataset.info, found))
  if as_json:
    print(json.dumps(found, indent=1))
    return
  console = Console()
  for part in (table(found), sizes_table(found), together_table(found)):
    console.print(part)
  if report.problems:
    console.print(f"{len(report.problems)} samples left out that cannot be used; see `errseg data check`")
  if out is not None:
    console.print(out / "stats.svg")


def as_object(info: DatasetInfo, report: CheckReport) -> dict[str, Any]:
  """The statistics of a split.

  Returns:
    {"dataset", "split", "images", "left_out", "ignored": percent of the pixels, "mean" and "std": RGB, 0..255, "sizes":
    [{"height", "width", "images"}], "classes": [{"class", "pixels", "share": percent of the labelled pixels, "images",
    and for each of WEIGHTS the class weight, 1 for a pixel on average}], "together": images that show both classes,
    [C, C]}.
  """
  weights = weights_of(report)
  rows = [
    {
      "class": name,
      "pixels": int(report.pixels[i]),
      "share": 100 * float(report.share[i]),
      "images": int(report.present[i]),
      **{key: values[i] for key, values in weights.items()},
    }
    for i, name in enumerate(info.classes)
  ]
  sizes = [{"height": h, "width": w, "images": n} for (h, w), n in sorted(report.sizes.items())]
  return {
    "dataset": info.name,
    "split": report.split,
    "images": report.images,
    "left_out": len(report.problems),
    "ignored": 100 * report.ignore_share,
    "mean": report.mean.tolist(),
    "std": report.std.tolist(),
    "sizes": sizes,
    "classes": rows,
    "together": report.together.tolist(),
  }


def weights_of(report: CheckReport) -> dict[str, tuple[float, ...]]:
  """Class weights by each of WEIGHTS, as the losses of these names count them."""
  if not report.pixels.any():
    return dict.fromkeys(WEIGHTS, (0.0,) * len(report.pixels))
  frequency = report.pixels / np.maximum(report.surroundings, 1)
  return {
    "inverse": class_weights(report.share, 1.0),
    "inverse_sqrt": class_weights(report.share, 0.5),
    "median_frequency": class_weights(report.share, 1.0, frequency),
  }


def table(found: dict[str, Any]) -> Table:
  """Pixels, images and weights of each class."""
  mean, std = (", ".join(f"{v:.1f}" for v in found[key]) for key in ("mean", "std"))
  out = Table(
    title=f"{found['dataset']} {found['split']}: {found['images']} images",
    caption=f"RGB mean {mean}, standard deviation {std}; ignored {found['ignored']:.1f} %",
  )
  out.add_column("class")
  for column in ("pixels", "% of pixels", "images", "1 / share", "1 / sqrt", "median frequency"):
    out.add_column(column, justify="right")
  for row in found["classes"]:
    weights = (f"{row[key]:.2f}" for key in WEIGHTS)
    out.add_row(
      escape(row["class"]), f"{row['pixels']:,}", f"{row['share']:.2f}", str(row["images"]), *weights
    )
  return out


def sizes_table(found: dict[str, Any]) -> Table:
  """Images of each size, the most common first."""
  rows = sorted(found["sizes"], key=lambda size: -size["images"])
  out = Table(title="sizes")
  for column in ("width x height", "images", "%"):
    out.add_column(column, justify="right")
  counts = [(f"{row['width']} x {row['height']}", row["images"]) for row in rows[:SHOWN]]
  if rest := sum(row["images"] for row in rows[SHOWN:]):
    counts.append((f"{len(rows) - SHOWN} more", rest))
  for name, count in counts:
    out.add_row(name, str(count), f"{100 * count / found['images']:.1f}")
  return out


def together_table(found: dict[str, Any]) -> Table:
  """What comes with each class: the first five of the others. stats.json and the plot have all of them."""
  names = [escape(row["class"]) for row in found["classes"]]
  given = shares_together(found)
  out = Table(title="what comes with each class, % of its images")
  out.add_column("class")
  out.add_column("with")
  for index, name in enumerate(names):
    others = [k for k in np.argsort(-given[index], kind="stable") if k != index and given[index, k]][:5]
    out.add_row(name, ", ".join(f"{names[k]} {given[index, k]:.0f}" for k in others))
  return out


def shares_together(found: dict[str, Any]) -> np.ndarray:
  """Percent of the images of a row's class that show the column's, float64 [C, C]."""
  counts = np.array(found["together"], float)
  return 100 * counts / np.maximum(counts.diagonal()[:, None], 1)


def plot(info: DatasetInfo, found: dict[str, Any]) -> str:
  """SVG: the share of each class, the sizes of the images, and which classes come together."""
  count = info.num_classes
  figure = Figure(figsize=(13, max(3.5, 0.2 * count + 1.5)), layout="constrained")
  shares, sizes, together = figure.subplots(1, 3)
  places = np.arange(count)
  colours = np.array(info.palette) / 255
  values = [max(row["share"], 1e-4) for row in found["classes"]]
  shares.barh(places, values, color=colours, edgecolor="#666666", linewidth=0.5)
  shares.set(xscale="log", xlabel="% of the labelled pixels", yticks=places, yticklabels=info.classes)
  shares.invert_yaxis()
  shares.tick_params("y", labelsize=8)
  rows = found["sizes"]
  area = [20 + 380 * row["images"] / found["images"] for row in rows]
  sizes.scatter([r["width"] for r in rows], [r["height"] for r in rows], s=area, alpha=0.5, color="#0072b2")
  sizes.set(xlabel="width, pixels", ylabel="height, pixels", title="sizes; the area says how many")
  sizes.margins(0.15)
  shown = together.imshow(shares_together(found), cmap="Blues", vmin=0, vmax=100)
  together.set(
    xticks=places, yticks=places, yticklabels=info.classes, title="% of the row's images that show the column"
  )
  together.set_xticks(places, info.classes, rotation=90)
  together.tick_params(labelsize=8)
  figure.colorbar(shown, ax=together, shrink=0.8)
  for axes in (shares, sizes, together):
    axes.title.set_fontsize(9)
  for axes in (shares, sizes):
    axes.spines[["top", "right"]].set_visible(False)
  buffer = io.StringIO()
  figure.savefig(buffer, format="svg")
  return buffer.getvalue()
