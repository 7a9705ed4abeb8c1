"""`errseg data convert`: a data set's samples in shards."""

from __future__ import annotations

import pathlib

from ml_collections import ConfigDict

from errseg_jax import assemble
from errseg_jax.data.shards import write_split
from errseg_jax.errors import UserError
from errseg_jax.progress import progress_bar

FORMATS = ("array_record",)


def convert(config: ConfigDict, split: str, to: str, out: pathlib.Path, shards: int, workers: int) -> None:
  """Writes one split, or all that the config names, and prints their index files.

  Args:
    config: of a data set.
    split: of it; "" takes all that the config names.
    to: one of FORMATS.
    out: folder of the shards.
    shards: files for each split.
    workers: threads that write.

  Raises:
    UserError: a sample cannot be used, or a setting makes no sense; nothing is lost, and the same call goes on.
  """
  assemble.known(to, FORMATS, "--to")
  if config.loader.shards:
    raise UserError(
      "config.loader.shards: the samples are in shards already; leave it out to convert the files"
    )
  dataset, splits = assemble.dataset(config), config.splits
  names = [split] if split else [s for s in (splits.train, splits.choose, splits.val) if s]
  for name in dict.fromkeys(names):
    count = len(dataset.source(name))
    with progress_bar(f"convert {name}", count) as update:
      print(write_split(dataset, name, out, min(shards, count), workers, update))
