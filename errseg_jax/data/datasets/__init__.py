"""The data sets, by the name that a config uses. A new one is a file and a line in `DATASETS`."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from errseg_jax.data.datasets.ade20k import ADE20K
from errseg_jax.data.datasets.base import Dataset, Sample, Source
from errseg_jax.data.datasets.camvid import CamVid
from errseg_jax.data.datasets.camvid_original import CamVidOriginal
from errseg_jax.data.datasets.cityscapes import Cityscapes
from errseg_jax.data.datasets.coco import COCO
from errseg_jax.data.datasets.folders import Folders
from errseg_jax.data.datasets.pairs import Pairs
from errseg_jax.data.datasets.scenes import Scenes
from errseg_jax.data.datasets.sift_flow import SIFTFlow
from errseg_jax.data.datasets.stanford_background import StanfordBackground
from errseg_jax.data.datasets.tfds import TFDS
from errseg_jax.data.datasets.voc import VOC
from errseg_jax.errors import UserError

__all__ = ["DATASETS", "Dataset", "Sample", "Source", "build"]

log = logging.getLogger("errseg")

DATASETS: dict[str, type[Dataset]] = {
  "scenes": Scenes,
  "camvid": CamVid,
  "camvid_original": CamVidOriginal,
  "cityscapes": Cityscapes,
  "ade20k": ADE20K,
  "voc": VOC,
  "coco": COCO,
  "sift_flow": SIFTFlow,
  "stanford_background": StanfordBackground,
  "folders": Folders,
  "pairs": Pairs,
  "tfds": TFDS,
}


def build(name: str, **kwargs: Any) -> Dataset:
  """The data set `name` with its fields set from a config section.

  "tfds:NAME" is NAME as tensorflow-datasets has prepared it, whatever data set the section was written for: what TFDS
  has no field for is left out, with a warning.

  Raises:
    UserError: no data set has that name, or it has no such field.
  """
  if name.startswith("tfds:"):
    known = {field.name for field in dataclasses.fields(TFDS)}
    if left := [f"data.{key}" for key in kwargs if key not in known]:
      log.warning("%s is read as it was prepared: %s has no effect", name, ", ".join(left))
    return TFDS(**{k: v for k, v in kwargs.items() if k in known} | {"dataset": name.removeprefix("tfds:")})
  if name not in DATASETS:
    raise UserError(f"data.name {name!r} is unknown; it must be one of {', '.join(DATASETS)}, or tfds:NAME")
  fields = [field.name for field in dataclasses.fields(DATASETS[name])]  # type: ignore[arg-type]
  for key in kwargs:
    if key not in fields:
      raise UserError(f"data.{key} is not a key of {name!r}; its keys are {', '.join(fields)}")
  return DATASETS[name](**kwargs)
