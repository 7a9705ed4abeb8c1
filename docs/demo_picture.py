"""Draws docs/demo.png from a trained demo: `python docs/demo_picture.py runs/demo`.

Rows: validation images 0 to 3. Columns: image, truth, frozen network, P(error), corrected labels.
"""

import sys

import cv2
import numpy as np

import errseg_jax
from errseg_jax import assemble
from errseg_jax.data.images import write_png

ROWS, GAP, ZOOM = 4, 4, 1.25


def row(network, sample) -> np.ndarray:
  palette = np.zeros((256, 3), np.uint8)
  palette[: network.info.num_classes] = network.info.palette
  out = network.predict(sample["image"])
  heat = cv2.applyColorMap(np.uint8(255 * out.error_probability), cv2.COLORMAP_MAGMA)[..., ::-1]
  maps = (sample["label"], out.semantic_labels, heat, out.labels)
  panels = [sample["image"], *(m if m.ndim == 3 else palette[m] for m in maps)]
  return np.hstack(
    [cv2.copyMakeBorder(p, 0, GAP, 0, GAP, cv2.BORDER_CONSTANT, value=(255,) * 3) for p in panels]
  )


def main(workdir: str) -> None:
  network = errseg_jax.load(workdir)
  source = assemble.dataset(network.config).source(network.config.splits.val)
  picture = np.vstack([row(network, source[i]) for i in range(ROWS)])
  size = (round(picture.shape[1] * ZOOM), round(picture.shape[0] * ZOOM))
  write_png("docs/demo.png", cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC))


if __name__ == "__main__":
  main(sys.argv[1])
