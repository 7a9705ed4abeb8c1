"""Images of a config: data set, splits, augmentation."""

from __future__ import annotations

import pathlib

from ml_collections import ConfigDict

from errseg_jax.assemble.adapter import score_files
from errseg_jax.assemble.sections import construct
from errseg_jax.data import datasets
from errseg_jax.data.augmentations import Augmentation, Chain
from errseg_jax.data.copy_paste import copy_paste
from errseg_jax.data.datasets import Source
from errseg_jax.data.scored import Scored
from errseg_jax.data.scores import TOP, joined
from errseg_jax.data.shards import Sharded
from errseg_jax.data.splits import Splits
from errseg_jax.data.transforms import TrainTransform


def dataset(config: ConfigDict) -> datasets.Dataset:
  """The data set of `config.data`, with the scores that a network left for it, or from `loader.shards`."""
  section = config.data.to_dict()
  found = datasets.build(section.pop("name"), **section)
  if scores := score_files(config):
    found = Scored(found, scores)
  if not config.loader.shards:
    return found
  return Sharded(found, pathlib.Path(config.loader.shards).expanduser())


def splits(config: ConfigDict) -> Splits:
  """The parts of the data set and their roles."""
  return construct(Splits, config.splits, "splits")


def pad_value(config: ConfigDict) -> tuple[int, int, int]:
  """RGB colour of padding: the mean that preprocessing subtracts."""
  r, g, b = (round(m) for m in config.segmenter.mean)
  return r, g, b


def padding(config: ConfigDict) -> tuple[int, ...]:
  """What batches are padded with in each channel of an image: `pad_value`, and equal scores where it has some."""
  classes = dataset(config).info.num_classes if score_files(config) else 0
  return (*pad_value(config), *(TOP,) * classes)


def transform(config: ConfigDict, source: str = "semantic", samples: Source | None = None) -> Augmentation:
  """(sample, generator) -> view: augmentation of the images of a training source.

  "strong" errors come from what the branches are fed.

  Args:
    config: of the run.
    source: the training source's name.
    samples: that it is for, which `transform.copy_paste` takes regions from; without them nothing is pasted.
  """
  section = config.transform.to_dict()
  probability = section.pop("copy_paste")
  plain = construct(TrainTransform, section, "transform", pad_value=pad_value(config))
  if source == "branches" and config.splits.error_source == "strong":
    plain = plain.stronger(config.splits.strength)
  chain: list[Augmentation] = [plain]
  if probability and samples is not None:
    chain.insert(0, copy_paste(samples, dataset(config).info.num_classes, probability))
  if score_files(config):
    chain.append(joined)
  return Chain(tuple(chain)) if len(chain) > 1 else plain
