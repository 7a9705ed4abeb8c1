"""`errseg submit`: what `errseg predict` wrote, as the archive that a benchmark's server takes."""

from __future__ import annotations

import dataclasses
import io
import os
import pathlib
import zipfile
from collections.abc import Mapping

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
  """

  info: DatasetInfo
  ids: tuple[int, ...]
  count: int
  suffix: str = ""
  folder: str = ""
  size: tuple[int, int] | None = None
  palette: bool = False


SERVERS = {
  "cityscapes": Server(cityscapes.INFO, cityscapes.LABEL_IDS, 1525, "_leftImg8bit", size=(1024, 2048)),
  "ade20k": Server(ade20k.INFO, tuple(range(1, 151)), 3352),
  "voc": Server(
    voc.INFO, tuple(range(21)), 1456, folder="results/VOC2012/Segmentation/comp6_test_cls/", palette=True
  ),
}


def submit(
  server: Server,
  predictions: pathlib.Path,
  images: pathlib.Path,
  out: pathlib.Path,
  labels: str = "corrected",
) -> pathlib.Path:
  """Writes the archive; nothing is written where anything is wrong.

  Args:
    server: that it is for.
    predictions: the folder that `errseg predict` wrote.
    images: the folder of the test images, or of folders of them.
    out: the archive, *.zip; one that exists is not overwritten.
    labels: "corrected", or "labels" of the frozen network.

  Returns:
    The archive's path.

  Raises:
    UserError: an image without a prediction, one of another size or count, a label that is no class, or an archive that
      is there already.
  """
  if labels not in LABELS:
    raise UserError(f"--labels={labels} must be one of {', '.join(LABELS)}")
  if out.suffix != ".zip":
    raise UserError(f"--out={out} must end in .zip")
  if out.exists():
    raise UserError(f"--out={out} exists; name another file, or remove it")
  found = images_of(images)
  if len(found) != server.count:
    raise UserError(
      f"{images}: holds {len(found)} images, and the test split of {server.info.name} has {server.count}"
    )
  files = {stem: predictions / f"{stem}_{labels}.png" for stem in found}
  if missing := [path for path in files.values() if not path.is_file()]:
    raise UserError(
      f"{missing[0]}: no such file, nor {len(missing) - 1} more; run `errseg predict` on all test images"
    )
  out.parent.mkdir(parents=True, exist_ok=True)
  part = out.with_name(f".{out.name}.part")
  try:
    with (
      zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive,
      progress_bar("submit", len(found)) as show,
    ):
      for done, (stem, image) in enumerate(found.items(), start=1):
        name = f"{server.folder}{stem.removesuffix(server.suffix)}.png"
        archive.writestr(name, encoded(server, files[stem], image))
        show(done)
    os.replace(part, out)
  finally:
    part.unlink(missing_ok=True)
  return out


def images_of(folder: pathlib.Path) -> Mapping[str, pathlib.Path]:
  """Image by stem, of a folder or of the folders in it.

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
  return out


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
