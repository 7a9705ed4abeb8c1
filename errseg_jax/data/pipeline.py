"""Batches. The order of training samples is a pure function of (seed, step), for any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import grain
import jax
import numpy as np

from errseg_jax.data.scores import joined
from errseg_jax.data.transforms import pad_to
from errseg_jax.structs import IGNORE

Arrays = dict[str, Any]


def train_batches(
  sources: Sequence[Any],
  transforms: Sequence[Callable[[Arrays, np.random.Generator], Arrays]],
  *,
  batch_size: int,
  seed: int,
  start: int,
  stop: int,
  threads: int,
) -> Iterator[Arrays]:
  """This process's rows of the global batches of steps start..stop-1.

  Args:
    sources: random-access samples; step i takes its whole batch from the i mod len(sources)-th.
    transforms: of each source, augments a sample to fixed size, from the sample's own generator.
    batch_size: images per global batch; the number of processes divides it.
    seed: of order and augmentation.
    start: first step. Resuming is starting at a step: nothing before it is read.
    stop: step after the last.
    threads: that read and augment.

  Returns:
    An iterator over {"image": uint8 [b, h, w, 3], "label": uint8 [b, h, w]}.
  """
  if start >= stop:
    return iter(())
  cv2.setNumThreads(1)  # samples are read side by side already: threads within one take a sixth of the speed
  local, own = batch_size // jax.process_count(), slice(jax.process_index(), None, jax.process_count())
  epochs = (
    stop * batch_size // min(map(len, sources)) + 1
  )  # without an end, batches of one are too many to count
  datasets = [
    grain.MapDataset.source(source)
    .seed(seed + k)
    .shuffle()
    .repeat(epochs)
    .random_map(transform)
    .batch(local)[own]
    for k, (source, transform) in enumerate(zip(sources, transforms, strict=True))
  ]
  dataset = grain.MapDataset.mix(datasets)[start:stop]  # equal weights: in turn
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2, 2 * threads))
  return iter(dataset.to_iter_dataset(options))


def step_names(sources: Sequence[Any], *, batch_size: int, seed: int, step: int) -> list[str]:
  """Names of the images of one global batch, for messages."""
  step, k = divmod(step, len(sources))
  indices = grain.MapDataset.range(len(sources[k])).seed(seed + k).shuffle().repeat()
  names = sources[k].names
  return [names[indices[i]] for i in range(step * batch_size, (step + 1) * batch_size)]


def bucket(height: int, width: int, multiple: int, remainder: int) -> tuple[int, int]:
  """Size that an image is padded to: the next multiples of `multiple`, plus `remainder`."""

  def padded(size: int) -> int:
    return -(-(size - remainder) // multiple) * multiple + remainder

  return padded(height), padded(width)


def eval_batches(
  source: Any,
  *,
  batch_size: int,
  size_multiple: int,
  size_remainder: int,
  pad_value: tuple[int, ...],
  threads: int,
) -> Iterator[Arrays]:
  """Every sample once, padded to a bucket and grouped by it; the last batch of a bucket is filled up.

  Yields:
    {"image", "label", "names", "sizes"}: arrays [batch_size, ...] at bucket size, fill-up rows labelled 255
    throughout; names and label sizes (h, w) of the real rows only.
  """
  dataset = grain.MapDataset.source(source).map(joined)
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * batch_size)
  waiting: dict[tuple[int, int], list[Arrays]] = {}
  for sample in dataset.to_iter_dataset(options):
    height, width = sample["label"].shape
    key = bucket(height, width, size_multiple, size_remainder)
    rows = waiting.setdefault(key, [])
    rows.append(sample)
    if len(rows) == batch_size:
      yield stacked(waiting.pop(key), key, batch_size, pad_value)
  for key, rows in waiting.items():
    yield stacked(rows, key, batch_size, pad_value)


def stacked(rows: Sequence[Arrays], size: tuple[int, int], count: int, pad_value) -> Arrays:
  """A batch of `count` rows as `eval_batches` gives it, of at most as many samples.

  Args:
    rows: samples; their images are at most as large as `size`.
    size: (height, width) that they are padded to.
    count: rows of the batch.
    pad_value: of each channel of the image.
  """
  image = np.empty((count, *size, len(pad_value)), np.uint8)
  image[:] = np.array(pad_value, np.uint8)
  label = np.full((count, *size), IGNORE, np.uint8)
  for i, row in enumerate(rows):
    padded = pad_to(row, *size, pad_value)
    image[i], label[i] = padded["image"], padded["label"]
  names, sizes = [r["name"] for r in rows], [r["label"].shape for r in rows]
  return {"image": image, "label": label, "names": names, "sizes": sizes}
