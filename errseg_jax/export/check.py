"""What was written, read back and compared with the network that it was written from."""

from __future__ import annotations

import pathlib

import numpy as np

from errseg_jax.errors import UserError
from errseg_jax.export.example import Model
from errseg_jax.export.sizes import Images, Size
from errseg_jax.inference.network import TrainedNetwork
from errseg_jax.progress import progress_bar

LABELS = ("labels", "semantic_labels", "detail_labels")
TOLERANCE = 1e-5
"""How far P_ep may be off: a program that was compiled anew adds up in another order."""
REPORT = "nothing was written; please report this with the config"


def check(folder: pathlib.Path, network: TrainedNetwork, images: Images) -> float:
  """Labels of every program against those of `TrainedNetwork.predict`, image by image.

  Args:
    folder: with card, weights and programs.
    network: of `exportable`.
    images: to label.

  Returns:
    The largest difference of P_ep.

  Raises:
    UserError: another label, or P_ep off by more than TOLERANCE.
  """
  model, largest, done = Model(folder), 0.0, 0
  with progress_bar("check", sum(map(len, images.by_size.values()))) as show:
    for size, own in images.by_size.items():
      for image in own:
        largest = max(largest, compared(model, network, image, size))
        done += 1
        show(done)
  return largest


def compared(model: Model, network: TrainedNetwork, image: np.ndarray, size: Size) -> float:
  """The largest difference of P_ep of an image; see `check`."""
  told, expected = model.predict(image), network.predict(image)
  where = f"the program for {size[0]}x{size[1]}"
  for name in LABELS:
    if wrong := int((told[name] != np.asarray(getattr(expected, name))).sum()):
      raise UserError(
        f"{where} gives other {name} than the run in {wrong} of {told[name].size} pixels: {REPORT}"
      )
  off = float(np.abs(told["error_probability"] - np.asarray(expected.error_probability)).max())
  if not off <= TOLERANCE:  # NaN is no agreement
    raise UserError(f"{where} gives P(error) {off:.2g} off the run's, {TOLERANCE:g} is allowed: {REPORT}")
  return off
