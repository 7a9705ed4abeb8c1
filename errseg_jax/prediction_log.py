"""What an interrupted `errseg predict` has done: rows of predictions.csv of the images whose pictures are written."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from errseg_jax import processes

PATTERN = ".predictions-*.jsonl"


def network_key(workdir: pathlib.Path, config: ConfigDict) -> str:
  """Changes where other labels would come out: with the config, its choices, or another training."""
  files = [*sorted(workdir.glob("*.json")), *sorted(workdir.glob("checkpoints/*/*"))]
  marks = [
    (str(file.relative_to(workdir)), file.stat().st_mtime_ns) for file in files if file.name != "results.json"
  ]
  known = json.dumps([str(workdir.resolve()), config.to_json(sort_keys=True), marks])
  return hashlib.sha256(known.encode()).hexdigest()


class PredictionLog:
  """Rows by image, a file for each process; a line is written when the image's pictures are.

  Args:
    output: the folder of the pictures.
    key: of the network; rows of another one are passed over.
  """

  def __init__(self, output: pathlib.Path, key: str):
    self.output, self.key = output, key
    self.rows: dict[tuple[str, int, int], tuple[str, ...]] = {}
    for path in sorted(output.glob(PATTERN)):
      for line in path.read_text().splitlines():
        self._read(line)
    processes.wait()
    self.file = (output / f".predictions-{jax.process_index()}.jsonl").open("a")

  def _read(self, line: str) -> None:
    try:
      entry = json.loads(line)
      if entry["key"] == self.key:
        path, size, time = entry["image"]
        self.rows[path, size, time] = tuple(entry["row"])
    except (ValueError, KeyError, TypeError):
      return  # cut short by what ended that run

  def find(self, image: pathlib.Path) -> tuple[str, ...] | None:
    """The row of an image that is as it was then."""
    return self.rows.get(_mark(image))

  def add(self, image: pathlib.Path, row: Sequence[str]) -> None:
    """Notes that an image's pictures are written."""
    entry = {"key": self.key, "image": _mark(image), "row": list(row)}
    self.file.write("\n" + json.dumps(entry))  # in front: what was cut short is a line of its own
    self.file.flush()

  def done(self) -> None:
    """All images are: the next call predicts anew."""
    self.file.close()
    processes.wait()
    if processes.first():
      for path in self.output.glob(PATTERN):
        path.unlink()


def _mark(image: pathlib.Path) -> tuple[str, int, int]:
  status = image.stat()
  return str(image.resolve()), status.st_size, status.st_mtime_ns
