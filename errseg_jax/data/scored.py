"""A data set whose samples bring the class scores that a network left for them in files."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any

from errseg_jax.data.datasets.base import Dataset, Sample, Source
from errseg_jax.data.score_files import SUFFIXES, ScoreFormat, read_scores
from errseg_jax.data.scores import at_size
from errseg_jax.errors import BadFile, UserError
from errseg_jax.structs import DatasetInfo


@dataclasses.dataclass(frozen=True)
class ScoreFiles:
  """A folder of score files.

  Attributes:
    folder: holds NAME.npy (or another of SUFFIXES) for the sample, or the image, of that name; or, of a data set,
      SPLIT/NAME.npy.
    kind: what the numbers in them are.
  """

  folder: pathlib.Path
  kind: ScoreFormat

  def of_split(self, split: str) -> ScoreFiles:
    """Those of a split, where it has a folder of its own.

    Raises:
      UserError: there is no folder at all.
    """
    if not self.folder.is_dir():
      raise UserError(
        f"{self.folder}: no such folder; set config.segmenter.adapter.folder to that of the score files"
      )
    own = self.folder / split
    return dataclasses.replace(self, folder=own) if own.is_dir() else self

  def find(self, name: str) -> pathlib.Path:
    """The file of a sample or image.

    Raises:
      UserError: there is none, or there are two.
    """
    # No glob: names may hold brackets.
    found = [path for suffix in SUFFIXES if (path := self.folder / f"{name}{suffix}").is_file()]
    if len(found) == 1:
      return found[0]
    if found:
      raise BadFile("scores", f"{found[0]}: and {found[1].name} are both scores of {name}; remove one")
    raise BadFile(
      "scores",
      f"{self.folder / name}.npy: no such file, nor one of {', '.join(SUFFIXES[1:])}; every image needs one",
    )


@dataclasses.dataclass(frozen=True)
class ScoredSource:
  """Samples with "scores": codes uint8 [h, w, C] of `data.scores`, at most at the image's size.

  Attributes:
    inner: samples without.
    indices: of those that have scores.
    paths: of their score files.
    kind: what is in them.
    num_classes: C.
    downscale: how many times smaller the samples are than the images' files.
  """

  inner: Source
  indices: tuple[int, ...]
  paths: tuple[pathlib.Path, ...]
  kind: ScoreFormat
  num_classes: int
  downscale: int = 1

  def __len__(self) -> int:
    return len(self.paths)

  @functools.cached_property
  def names(self) -> tuple[str, ...]:
    """Of the samples."""
    return tuple(self.inner.names[index] for index in self.indices)

  @functools.cached_property
  def images(self) -> tuple[str, ...] | None:
    """Of the samples that are read from files."""
    images = getattr(self.inner, "images", None)
    return images and tuple(images[index] for index in self.indices)

  def files(self, index: int) -> tuple[str, ...]:
    """That a sample is read from."""
    own = getattr(self.inner, "files", lambda index: ())(self.indices[index])
    return *own, str(self.paths[index])

  def __getitem__(self, index: int) -> Sample:
    sample = self.inner[self.indices[index]]
    (height, width), d = sample["label"].shape, self.downscale
    whole = (d * height + d - 1, d * width + d - 1)  # of the file, or up to d - 1 pixels more
    codes = read_scores(self.paths[index], whole, self.num_classes, self.kind)
    larger = codes.shape[0] > height or codes.shape[1] > width
    return {**sample, "scores": at_size(codes, (height, width)) if larger else codes}


@dataclasses.dataclass(frozen=True)
class Scored(Dataset):
  """A data set with score files.

  Attributes:
    inner: the data set.
    scores: where its score files lie.
  """

  inner: Dataset
  scores: ScoreFiles

  @property
  def info(self) -> DatasetInfo:
    return self.inner.info

  def published(self, split: str) -> int:
    return self.inner.published(split)

  def settings(self) -> dict[str, Any]:
    return {**self.inner.settings(), "scores": dataclasses.asdict(self.scores.kind)}

  def scan(self, split: str) -> tuple[Source, tuple[str, ...]]:
    source, problems = self.inner.scan(split)
    files, found, missing = self.scores.of_split(split), dict[int, pathlib.Path](), []
    for index, name in enumerate(source.names):
      try:
        found[index] = files.find(name)
      except BadFile as error:
        missing.append(str(error))
    if not found:
      raise UserError(missing[0])
    downscale = getattr(self.inner, "downscale", 1)
    scored = ScoredSource(
      source, tuple(found), tuple(found.values()), self.scores.kind, self.info.num_classes, downscale
    )
    return scored, (*problems, *missing)
