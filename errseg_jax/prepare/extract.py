"""`errseg data extract`: a network runs once over a data set, and leaves its class scores in a file for each image."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Callable

import cv2
import jax
import numpy as np
from ml_collections import ConfigDict

from errseg_jax import assemble, processes
from errseg_jax.adapters import HostAdapter, SavedAdapter
from errseg_jax.config import network_given
from errseg_jax.data.datasets import Source
from errseg_jax.data.scores import encode
from errseg_jax.errors import UserError
from errseg_jax.inference.padding import padded
from errseg_jax.models.error_aware import ErrorAware, infer
from errseg_jax.prepare.folder import check_space, claim
from errseg_jax.progress import progress_bar
from errseg_jax.train.initialise import initial_variables
from errseg_jax.train.restore import load
from errseg_jax.train.state import Variables, digest

Scorer = Callable[[np.ndarray], np.ndarray]
"""image uint8 [H, W, 3] -> logits float32 [H, W, C]."""


def extract(
  config: ConfigDict, workdir: pathlib.Path | None, split: str, out: pathlib.Path, stride: int
) -> None:
  """Writes OUT/SPLIT/NAME.npz, codes of `data.scores`, for the images of a split, or of all that the config names.

  A file is written whole or not at all; those that are there are kept, so a killed call goes on.

  Args:
    config: of the data set, and of a given network where there is no workdir.
    workdir: of a finished run whose network is to be asked; None: the given one.
    split: of the data set; "" takes all that the config names.
    out: folder of the scores.
    stride: how many times smaller the maps are than the images.

  Raises:
    UserError: no network, an image that cannot be read, a folder that another network wrote, or too small a disk.
  """
  if stride < 1:
    raise UserError(f"--stride={stride} must be at least 1")
  dataset, names = assemble.dataset(config), (split,) if split else assemble.splits(config).named
  sources = {name: dataset.source(name) for name in names}
  score, network = scorer(config, workdir)
  sight = {name: config[name].to_dict() for name in ("views", "tiles")}
  for name, source in sources.items():
    folder = out / name
    claim(folder, {"data": dataset.settings(), "network": network, **sight, "stride": stride})
    write(folder, source, score, stride, dataset.info.num_classes)
    if processes.first():
      print(folder)


def scorer(config: ConfigDict, workdir: pathlib.Path | None) -> tuple[Scorer, str]:
  """(what labels an image, a hash of it).

  Raises:
    UserError: there is no trained network, or it cannot be made.
  """
  found = assemble.adapter(config)
  if isinstance(found, SavedAdapter):
    raise UserError(
      "config.segmenter.adapter: its scores are in files already; pack them by `errseg data convert`"
    )
  if workdir is not None:
    trained = load(workdir, config)
    return compiled(config, trained.model, trained.variables), digest(trained.variables)
  if isinstance(found, HostAdapter):
    return functools.partial(on_host, config, found.scorer()), found.fingerprint()  # type: ignore[attr-defined]
  if not network_given(config):
    raise UserError("--workdir=W is needed, a trained run, or a config that names a given network")
  model = assemble.model(config, assemble.dataset(config).info.num_classes)
  variables = initial_variables(model, config)
  network = {kind: tree.get("segmenter", {}) for kind, tree in variables.items()}
  return compiled(config, model, variables), digest(network) + str(config.segmenter.adapter.to_dict())


def compiled(config: ConfigDict, model: ErrorAware, variables: Variables) -> Scorer:
  """A network of jax, in its views and tiles; few sizes are compiled."""
  program = jax.jit(lambda variables, image: infer(model, variables, image, ()).semantic)

  def score(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    return np.asarray(program(variables, padded(config, image)))[0, :height, :width]

  return score


def on_host(config: ConfigDict, function: Scorer, image: np.ndarray) -> np.ndarray:
  """A network outside of jax; it sees the image padded as ours do."""
  height, width = image.shape[:2]
  whole = padded(config, image)[0]
  return resized(function(whole), whole.shape[:2], cv2.INTER_LINEAR)[:height, :width]


def resized(maps: np.ndarray, size: tuple[int, ...], how: int) -> np.ndarray:
  """float32 [h, w, C] -> [*size, C]."""
  if maps.shape[:2] == size:
    return maps
  # OpenCV takes few channels at a time.
  return np.stack(
    [cv2.resize(np.ascontiguousarray(x), size[::-1], interpolation=how) for x in np.moveaxis(maps, -1, 0)], -1
  )


def write(folder: pathlib.Path, source: Source, score: Scorer, stride: int, num_classes: int) -> None:
  """The files of a split that are not there yet.

  Raises:
    UserError: an image cannot be read, the scores are of other classes, or the disk is too small.
  """
  missing = [k for k, name in enumerate(source.names) if not (folder / f"{name}.npz").exists()]
  with progress_bar(f"extract {folder.name}", len(source), len(source) - len(missing)) as show:
    for done, index in enumerate(missing, 1):
      sample = source[index]
      logits = score(sample["image"])
      if logits.shape[2] != num_classes:
        raise UserError(
          f"{sample['name']}: the network gives scores of {logits.shape[2]} classes, and the data set has {num_classes}"
        )
      size = tuple(-(-n // stride) for n in logits.shape[:2])
      path = folder / f"{sample['name']}.npz"
      path.parent.mkdir(parents=True, exist_ok=True)
      part = path.with_name(f".{path.name}.part")
      with part.open("wb") as file:
        np.savez_compressed(file, codes=encode(resized(logits, size, cv2.INTER_AREA)))
      if done == 1:
        check_space(folder, part.stat().st_size * len(missing), "set a larger --stride")
      os.replace(part, path)
      show(len(source) - len(missing) + done)
