"""A data set prepared for tensorflow-datasets, as array_record and without TensorFlow."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Sequence
from typing import Any, ClassVar

from errseg_jax.data.datasets.base import Dataset
from errseg_jax.data.shard_writer import encoded
from errseg_jax.errors import UserError

VERSION = "1.0.0"


def prepare(dataset: Dataset, splits: Sequence[str], out: pathlib.Path) -> pathlib.Path:
  """Writes `out`/NAME/1.0.0 with the features image, label and name, in the order of the data set.

  Labels are train ids, 255 is ignored. What is cut short is begun anew by the next call.

  Args:
    dataset: the data set; NAME is its name.
    splits: of it.
    out: tensorflow-datasets' data_dir.

  Raises:
    UserError: a sample cannot be used, or the folder holds this data set already.
  """
  import tensorflow_datasets as tfds  # here, as it takes a second

  info = dataset.info
  folder = out / info.name / VERSION
  if folder.exists():
    raise UserError(f"{folder}: exists; name another --out, or remove it")
  sources = {split: dataset.source(split) for split in splits}

  class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The samples of `sources`."""

    name = info.name
    VERSION = tfds.core.Version(VERSION)
    # Nothing is downloaded; the search for such a list wants a package more.
    url_infos: ClassVar[dict[str, Any]] = {}

    def _info(self) -> Any:
      return tfds.core.DatasetInfo(
        builder=self,
        description=f"{info.name}: semantic segmentation, {info.num_classes} classes",
        disable_shuffling=True,
        metadata=tfds.core.MetadataDict(classes=list(info.classes), palette=[list(c) for c in info.palette]),
        features=tfds.features.FeaturesDict(
          {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.Image(shape=(None, None, 1)),
            "name": tfds.features.Text(),
          }
        ),
      )

    def _split_generators(self, manager: Any) -> dict[str, Any]:
      del manager
      return {split: self._generate_examples(split) for split in sources}

    def _generate_examples(self, split: str) -> Any:
      source = sources[split]
      for index, name in enumerate(source.names):
        image, label = (
          io.BytesIO(content) for content in encoded(source, index, source[index], everywhere=True)[:2]
        )
        yield index, {"image": image, "label": label, "name": name}

  Builder(data_dir=str(out), file_format="array_record").download_and_prepare()
  return folder
