"""`errseg export`: a trained network as a folder that runs without this package."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict
from safetensors.numpy import save

from errseg_jax.errors import UserError
from errseg_jax.export import example
from errseg_jax.export.card import card
from errseg_jax.export.check import check
from errseg_jax.export.program import Program, exportable
from errseg_jax.export.sizes import Images, Size, named, of_split
from errseg_jax.inference.network import TrainedNetwork
from errseg_jax.progress import progress_bar
from errseg_jax.train.restore import load

WEIGHTS = "weights.safetensors"


def export(config: ConfigDict, workdir: pathlib.Path, out: pathlib.Path, sizes: str = "") -> str:
  """Writes programs, weights, card and example, and checks them against the run.

  Args:
    config: of the workdir, with changes of this call.
    workdir: of a finished run.
    out: the folder to make.
    sizes: "HEIGHTxWIDTH,..." of images; "": those of the reported split.

  Returns:
    One line that says what was written.

  Raises:
    UserError: the run is not finished or of a kind that cannot be written, `out` is not empty, or what was written
      gives other labels than the run; then nothing is left of it.
  """
  check_out(out)
  network = exportable(load(workdir, config))
  images = named(config, sizes) if sizes else of_split(config)
  with whole_folder(out) as folder:
    content = write(folder, network, [*images.by_size])
    off = check(folder, network, images)
    content["check"] = checked(images, off)
    write_card(folder, content)
  total = sum(file.stat().st_size for file in out.iterdir())
  shown = ", ".join("x".join(map(str, size)) for size in images.by_size)
  return (
    f"{out}: {shown}; {total / 1e6:.1f} MB; labels identical on {content['check']['images']} of {images.source}, "
    f"P(error) within {off:.1g}"
  )


def checked(images: Images, off: float) -> dict[str, Any]:
  """What the card says of the comparison."""
  count = sum(map(len, images.by_size.values()))
  return {"images": count, "of": images.source, "labels": "identical", "error_probability_off": off}


def check_out(out: pathlib.Path) -> None:
  """Refuses to write over something.

  Raises:
    UserError: `out` is a file, or a folder that is not empty.
  """
  try:
    taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
  except OSError as error:
    raise UserError(f"--out={out} cannot be made ({error.strerror}); name another folder") from None
  if taken:
    raise UserError(f"--out={out} exists and is not an empty folder: name another, or remove it")


@contextlib.contextmanager
def whole_folder(out: pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder that gets its name when all is in it; nothing is left of it otherwise.

  Raises:
    UserError: it cannot be made.
  """
  part = out.absolute().with_name(f".{out.absolute().name}-{os.getpid()}")
  try:
    part.mkdir(parents=True)
  except OSError as error:
    raise UserError(f"--out={out} cannot be made ({error.strerror}); name another folder") from None
  try:
    yield part
    os.replace(part, out)
  finally:
    shutil.rmtree(part, ignore_errors=True)


def write(folder: pathlib.Path, network: TrainedNetwork, sizes: list[Size]) -> dict[str, Any]:
  """Writes a program for each size, the weights, the example and the card; the card's content."""
  program, programs = Program(network), []
  with progress_bar("export", len(sizes)) as show:
    for done, size in enumerate(sizes, 1):
      file = folder / f"program_{size[0]}x{size[1]}.bin"
      file.write_bytes(program.serialized(size))
      programs.append({"size": list(size), **described(file)})
      show(done)
  (folder / WEIGHTS).write_bytes(save(program.weights))
  weights = {**described(folder / WEIGHTS), "arrays": len(program.weights)}
  shutil.copyfile(pathlib.Path(example.__file__), folder / "example.py")
  content = card(network, programs, weights, program.platforms)
  write_card(folder, content)
  return content


def described(file: pathlib.Path) -> dict[str, Any]:
  """Name, length and checksum of a file."""
  content = file.read_bytes()
  return {"file": file.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def write_card(folder: pathlib.Path, content: dict[str, Any]) -> None:
  """card.json."""
  (folder / "card.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
