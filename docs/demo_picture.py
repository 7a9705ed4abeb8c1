"""Draws docs/demo.png from a trained demo: `python docs/demo_picture.py runs/demo`.

Rows: the first validation images. Columns: image, truth, frozen network, P(error), corrected labels. P(error) has the
colours of the report; grey is unlabelled.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

import errseg_jax
from errseg_jax import assemble
from errseg_jax.report.plots import error_ramp

ROWS, UNLABELLED = 3, 208


def panels(network, sample) -> dict[str, np.ndarray]:
  """Title of a column -> its picture, uint8 [H, W, 3], or P(error) [H, W]."""
  palette = np.full((256, 3), UNLABELLED, np.uint8)
  palette[: network.info.num_classes] = network.info.palette
  out = network.predict(sample["image"])
  return {
    "image": sample["image"],
    "truth": palette[sample["label"]],
    "network": palette[out.semantic_labels],
    "P(error)": out.error_probability,
    "corrected": palette[out.labels],
  }


def main(workdir: str) -> None:
  network = errseg_jax.load(workdir)
  source = assemble.dataset(network.config).source(network.config.splits.val)
  ramp = ListedColormap(error_ramp() / 255)
  figure, axes = plt.subplots(ROWS, 5, figsize=(12.2, 5.5), layout="constrained")
  figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
  for i, row in enumerate(axes):
    for axis, (title, picture) in zip(row, panels(network, source[i]).items(), strict=True):
      shown = axis.imshow(picture, cmap=ramp, vmin=0, vmax=1, interpolation="nearest")
      axis.axis("off")
      if i == 0:
        axis.set_title(title)
      if picture.ndim == 2:
        scale = shown
  figure.colorbar(
    scale,
    ax=axes,
    location="bottom",
    shrink=0.19,
    anchor=(0.74, 0),
    aspect=24,
    label="probability of an error",
  )
  figure.savefig("docs/demo.png", dpi=100)


if __name__ == "__main__":
  main(sys.argv[1])
