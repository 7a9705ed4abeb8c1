"""`errseg predict`: labels, corrected labels, error map and overlay of images; a table, worst first."""

from __future__ import annotations

import csv
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from ml_collections import ConfigDict

from errseg_jax import assemble, processes
from errseg_jax.data.images import IMAGE_SUFFIXES, read_image, shrink_image, write_label_png, write_png
from errseg_jax.data.score_files import read_scores
from errseg_jax.data.scores import joined
from errseg_jax.errors import UserError
from errseg_jax.inference.network import TrainedNetwork
from errseg_jax.metrics.image_quality import expected_counts, expected_iou, expected_miou
from errseg_jax.prediction_log import PredictionLog, network_key
from errseg_jax.progress import progress_bar
from errseg_jax.structs import Prediction
from errseg_jax.train.restore import load

ERROR_COLOUR = np.array((230, 159, 0), np.float32)  # orange, told from every label by colour-blind eyes
OVERLAY_ROWS = 256  # at a time: in float32 a large image takes five times its memory
COLUMNS = ("image", "expected_accuracy", "flagged_share", "height", "width", "expected_mIoU")


def find_images(paths: Sequence[pathlib.Path], output: pathlib.Path) -> dict[str, pathlib.Path]:
  """Output name -> image file; a folder gives every image in it.

  Raises:
    UserError: nothing there, two images of one name, or an output that would overwrite an image.
  """
  found: dict[str, pathlib.Path] = {}
  for path in paths:
    files = sorted(_images(path)) if path.is_dir() else [path]
    if not files:
      raise UserError(f"{path}: no image in this folder; known are {', '.join(IMAGE_SUFFIXES)}")
    for file in files:
      if not file.is_file():
        raise UserError(f"{file} does not exist")
      if file.stem in found:
        raise UserError(f"{file} and {found[file.stem]} would write the same outputs: rename one")
      if file.parent.resolve() == output.resolve():
        raise UserError(f"--output={output} is the folder of {file.name}: name another")
      found[file.stem] = file
  return found


def _images(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  # Archives made on a Mac hold "._NAME.png" beside each file.
  known = (f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES)
  return (f for f in known if not f.name.startswith("."))


def overlay(image: np.ndarray, error_probability: np.ndarray) -> np.ndarray:
  """The image with P(error) laid over it in orange, uint8 [H, W, 3]."""
  out = np.empty_like(image)
  for top in range(0, len(image), OVERLAY_ROWS):
    rows = slice(top, top + OVERLAY_ROWS)
    grey = cv2.cvtColor(cv2.cvtColor(image[rows], cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB).astype(np.float32)
    share = np.clip(error_probability[rows], 0, 1)[..., None]
    out[rows] = (grey * (1 - share) + ERROR_COLOUR * share).round()
  return out


def write_outputs(output: pathlib.Path, name: str, image: np.ndarray, out: Prediction, palette) -> None:
  """NAME_{labels,corrected,error,overlay}.png."""
  write_label_png(output / f"{name}_labels.png", np.asarray(out.semantic_labels), palette)
  write_label_png(output / f"{name}_corrected.png", np.asarray(out.labels), palette)
  probability = np.asarray(out.error_probability)
  write_png(output / f"{name}_error.png", np.round(255 * probability).astype(np.uint8))
  write_png(output / f"{name}_overlay.png", overlay(image, probability))


def predict_file(network: TrainedNetwork, image: np.ndarray, scores: np.ndarray | None = None) -> Prediction:
  """Of an image as its file is: seen at the scale of the run's samples (`data.downscale`), told at its own.

  Args:
    network: a trained run.
    image: uint8 [H, W, 3], RGB.
    scores: of the image, codes of `data.scores`, where the network is saved scores.
  """
  height, width = image.shape[:2]
  small = shrink_image(image, network.config.data.get("downscale", 1))
  out = network.predict(small if scores is None else joined({"image": small, "scores": scores})["image"])
  if small.shape == image.shape:
    return out
  size = (width, height)
  probability: Any = cv2.resize(np.asarray(out.error_probability), size, interpolation=cv2.INTER_LINEAR)
  maps: dict[str, Any] = {
    name: cv2.resize(np.asarray(getattr(out, name)), size, interpolation=cv2.INTER_NEAREST_EXACT)
    for name in ("labels", "semantic_labels", "detail_labels")
  }
  return Prediction(error_probability=probability, **maps)


def scores_of(network: TrainedNetwork, name: str, image: np.ndarray) -> np.ndarray | None:
  """The saved scores of an image, where the network is such; of `config.segmenter.adapter.folder`.

  Raises:
    UserError: there are none for it.
  """
  files = assemble.score_files(network.config)
  if files is None:
    return None
  return read_scores(files.find(name), image.shape[:2], network.info.num_classes, files.kind)


def predict(
  workdir: pathlib.Path,
  paths: Sequence[pathlib.Path],
  output: pathlib.Path,
  config: ConfigDict | None = None,
) -> pathlib.Path:
  """Predicts images and folders; of several processes each does its share. A call that was cut short goes on.

  Args:
    workdir: of a finished run.
    paths: image files or folders.
    output: folder for the results.
    config: of the workdir, with changes of this call; None reads it.

  Returns:
    The path of predictions.csv, the worst image first: expected accuracy of the frozen network's labels (mean of
    1 - calibrated P_ep), the share of pixels over the threshold, and what `expected_iou` says of the labels, as
    expected_mIoU and in a column iou/CLASS for each class, empty where no pixel has its label; percent.

  Raises:
    UserError: a path or image that cannot be read; a workdir that is not finished.
  """
  images = find_images(paths, output)
  network = load(workdir, config)
  try:
    output.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--output={output} cannot be made ({error.strerror}); name another folder") from None
  rows: list[tuple[str, ...]] = []
  log = PredictionLog(output, network_key(workdir, network.config))
  own = [list(images.items())[i] for i in processes.own_share(len(images))]
  with progress_bar("predict", len(own)) as show:
    for done, (name, path) in enumerate(own, 1):
      row = log.find(path)
      if row is None:
        image = read_image(path)
        out = predict_file(network, image, scores_of(network, name, image))
        write_outputs(output, name, image, out, network.info.palette)
        row = table_row(network, path, out)
        log.add(path, row)
      rows.append(row)
      show(done)
  columns = [*COLUMNS, *(f"iou/{name}" for name in network.info.classes)]
  text = np.frombuffer(
    json.dumps(rows).encode(), np.uint8
  )  # as an array of texts each would take the longest's memory
  shares = processes.gathered({"rows": text})
  table = output / "predictions.csv"
  if processes.first():
    write_table(
      table, columns, [tuple(row) for share in shares for row in json.loads(share["rows"].tobytes())]
    )
  log.done()
  return table


def table_row(network: TrainedNetwork, path: pathlib.Path, out: Prediction) -> tuple[str, ...]:
  """What predictions.csv says of an image."""
  labels, probability = np.asarray(out.semantic_labels), np.asarray(out.error_probability)
  expected = 100 * (1 - float(np.mean(probability)))
  flagged = 100 * float(np.mean(probability > network.choice.threshold))
  counts = expected_counts(labels, probability, network.info.num_classes)
  ious = ["" if np.isnan(iou) else f"{iou:.2f}" for iou in expected_iou(*counts)]
  height, width = labels.shape
  return (
    str(path),
    f"{expected:.2f}",
    f"{flagged:.2f}",
    str(height),
    str(width),
    f"{expected_miou(*counts):.2f}",
    *ious,
  )


def write_table(table: pathlib.Path, columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
  """predictions.csv, the image of the lowest expected accuracy first; whole or not at all."""
  part = table.with_suffix(".tmp")
  by_accuracy = sorted(rows, key=lambda row: float(row[1]))
  with part.open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(columns)
    writer.writerows(by_accuracy)
  os.replace(part, table)
