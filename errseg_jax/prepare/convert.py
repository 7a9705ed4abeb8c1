"""`errseg data convert`: a data set's samples in shards, of our own or of tensorflow-datasets."""

from __future__ import annotations

import pathlib

from ml_collections import ConfigDict

from errseg_jax import assemble
from errseg_jax.data.shard_writer import write_split
from errseg_jax.data.tfds_builder import prepare
from errseg_jax.errors import UserError
from errseg_jax.progress import progress_bar

FORMATS = ("array_record", "tfds")


def convert(config: ConfigDict, split: str, to: str, out: pathlib.Path, shards: int, workers: int) -> None:
  """Writes one split, or all that the config names, and prints their index files.

  Args:
    config: of a data set.
    split: of it; "" takes all that the config names.
    to: one of FORMATS.
    out: folder of the shards.
    shards: files for each split, of array_record.
    workers: threads that write, of array_record.

  Raises:
    UserError: a sample cannot be used, or a setting makes no sense; nothing is lost, and the same call goes on.
  """
  assemble.known(to, FORMATS, "--to")
  if config.loader.shards:
    raise UserError(
      "config.loader.shards: the samples are in shards already; leave it out to convert the files"
    )
  dataset = assemble.dataset(config)
  names = (split,) if split else assemble.splits(config).named
  if to == "tfds" and assemble.score_files(config):
    raise UserError("--to=tfds: a data set of tensorflow-datasets holds no scores; set --to=array_record")
  if to == "tfds":
    print(prepare(dataset, names, out))
    return
  for name in names:
    source = dataset.source(name)
    count = len(source)
    with progress_bar(f"convert {name}", count) as update:
      print(write_split(dataset, name, source, out, min(shards, count), workers, update))
