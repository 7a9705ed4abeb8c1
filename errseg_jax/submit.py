"""`errseg submit`: what `errseg predict` wrote, as the archive that a benchmark's server takes."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import pathlib
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from PIL import Image

from errseg_jax.data.datasets import ade20k, cityscapes, voc
from errseg_jax.data.images import IMAGE_SUFFIXES, image_size, palette_png, read_label
from errseg_jax.errors import UserError
from errseg_jax.progress import progress_bar
from errseg_jax.structs import DatasetInfo

LABELS = ("corrected", "labels")


@dataclasses.dataclass(frozen=True)
class Server:
  """What a server wants.

  Attributes:
    info: of the data set.
    ids: of each class.
    count: images of the test split.
    suffix: of an image's stem, which the file to hand in does not have.
    folder: in the archive.
    size: (height, width) of every image; None where each has its own.
    palette: PNGs have one.
    name: regular expression of an image's stem.
    endings: that the archive's name may have.
  """

  info: DatasetInfo
  ids: tuple[int, ...]
  count: int
  suffix: str = ""
  folder: str = ""
  size: tuple[int, int] | None = None
  palette: bool = False
  name: str = ".*"
  endings: tuple[str, ...] = (".zip",)


SERVERS = {
  "cityscapes": Server(
    cityscapes.INFO,
    cityscapes.LABEL_IDS,
    1525,
    "_leftImg8bit",
    size=(1024, 2048),
    name=r"[a-z-]+_\d{6}_\d{6}_leftImg8bit",
  ),
  "ade20k": Server(ade20k.INFO, tuple(range(1, 151)), 3352, name=r"ADE_test_\d{8}"),
  "voc": Server(
    voc.INFO,
    tuple(range(21)),
    1456,
    folder="results/VOC2012/Segmentation/comp6_test_cls/",
    palette=True,
    name=r"\d{4}_\d{6}",
    endings=(".tgz", ".tar.gz"),
  ),
}


def submit(
  server: Server,
  predictions: pathlib.Path,
  images: pathlib.Path,
  out: pathlib.Path,
  labels: str = "corrected",
  listed: pathlib.Path | None = None,
) -> pathlib.Path:
  """Writes the archive; nothing is written where anything is wrong.

  Args:
    server: that it is for.
    predictions: the folder that `errseg predict` wrote.
    images: the folder of the test images, or of folders of them.
    out: the archive, with one of the server's endings; one that exists is not overwritten.
    labels: "corrected", or "labels" of the frozen network.
    listed: a file with the name of a test image a line, where the folder holds others too.

  Returns:
    The archive's path.

  Raises:
    UserError: an image without a prediction, one of another name, size or count, a label that is no class, an archive
      that is there already.
  """
  if labels not in LABELS:
    raise UserError(f"--labels={labels} must be one of {', '.join(LABELS)}")
  if not out.name.endswith(server.endings):
    raise UserError(
      f"--out={out} must end in {' or '.join(server.endings)}: the server takes no other archive"
    )
  if out.exists():
    raise UserError(f"--out={out} exists; name another file, or remove it")
  found = images_of(images, listed)
  if len(found) != server.count:
    where = listed or f"{images} (or name those of the test split by --list=FILE)"
    raise UserError(
      f"{where}: {len(found)} images, and the test split of {server.info.name} has {server.count}"
    )
  if other := [stem for stem in found if not re.fullmatch(server.name, stem)]:
    raise UserError(f"{found[other[0]]}: no test image of {server.info.name} has such a name")
  files = {stem: predictions / f"{stem}_{labels}.png" for stem in found}
  if missing := [path for path in files.values() if not path.is_file()]:
    raise UserError(
      f"{missing[0]}: no such file, nor {len(missing) - 1} more; run `errseg predict` on all test images"
    )
  out.parent.mkdir(parents=True, exist_ok=True)
  part = out.with_name(f".{out.name}.part")
  try:
    with archive(part, out.suffix == ".zip") as add, progress_bar("submit", len(found)) as show:
      for done, (stem, image) in enumerate(found.items(), start=1):
        name = f"{server.folder}{stem.removesuffix(server.suffix)}.png"
        add(name, encoded(server, files[stem], image))
        show(done)
    os.replace(part, out)
  finally:
    part.unlink(missing_ok=True)
  return out


@contextlib.contextmanager
def archive(path: pathlib.Path, zipped: bool) -> Iterator[Callable[[str, bytes], None]]:
  """(name, content) -> None that adds a file to a new zip, or to a tar.gz."""
  if zipped:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as out:
      yield out.writestr
    return
  with tarfile.open(path, "w:gz") as tar:

    def add(name: str, content: bytes) -> None:
      info = tarfile.TarInfo(name)
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))

    yield add


def images_of(folder: pathlib.Path, listed: pathlib.Path | None) -> Mapping[str, pathlib.Path]:
  """Image by stem, of a folder or of the folders in it; of a list, those that it names.

  Raises:
    UserError: there is no such folder or image, or two have one stem.
  """
  if not folder.is_dir():
    raise UserError(f"--images={folder}: no such folder; name that of the test images")
  out: dict[str, pathlib.Path] = {}
  for path in sorted([*folder.iterdir(), *folder.glob("*/*")]):
    if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file():
      if path.stem in out:
        raise UserError(
          f"{path}: {out[path.stem]} has the same stem; name the folder of the test split alone"
        )
      out[path.stem] = path
  if not out:
    raise UserError(f"--images={folder}: holds no image")
  return out if listed is None else chosen(out, folder, listed)


def chosen(
  images: Mapping[str, pathlib.Path], folder: pathlib.Path, listed: pathlib.Path
) -> Mapping[str, pathlib.Path]:
  """The images that a list names, in its order.

  Raises:
    UserError: there is no such list, or no such image.
  """
  try:
    names = listed.read_text("utf-8-sig", errors="replace").split()
  except FileNotFoundError:
    raise UserError(f"--list={listed}: no such file; name one with a test image a line") from None
  if missing := [name for name in names if name not in images]:
    raise UserError(f"{listed}: {missing[0]!r} is no image of {folder}, nor are {len(missing) - 1} more")
  return {name: images[name] for name in names}


def encoded(server: Server, path: pathlib.Path, image: pathlib.Path) -> bytes:
  """The PNG that the server takes for one prediction.

  Raises:
    UserError: it is of another size than its image, or holds what is no class.
  """
  label, wanted = read_label(path), server.size or image_size(image)
  if label.shape != wanted:
    raise UserError(
      f"{path}: is {label.shape[1]}x{label.shape[0]}, and {image.name} is {wanted[1]}x{wanted[0]}; predict the "
      "test images as they are"
    )
  table = np.zeros(256, np.uint8)
  table[: len(server.ids)] = server.ids
  if label.max() >= len(server.ids):
    raise UserError(
      f"{path}: label value {int(label.max())} is no class of {server.info.name}; is it another run's prediction?"
    )
  ids = table[label]
  if server.palette:
    return palette_png(ids, server.info.palette)
  buffer = io.BytesIO()
  Image.fromarray(ids).save(buffer, format="PNG")
  return buffer.getvalue()
