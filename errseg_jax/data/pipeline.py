"""Batches. The order of training samples is a pure function of (seed, step), for any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grain
import jax
import numpy as np

from errseg_jax.data.transforms import pad_to
from errseg_jax.structs import IGNORE

Arrays = dict[str, Any]


def train_batches(
  source: Any,
  transform: Callable[[Arrays, np.random.Generator], Arrays],
  *,
  batch_size: int,
  seed: int,
  start: int,
  stop: int,
  threads: int,
) -> Iterator[Arrays]:
  """This process's rows of the global batches of steps start..stop-1.

  Args:
    source: random-access samples.
    transform: augments a sample to fixed size, from its own generator.
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
  local = batch_size // jax.process_count()
  dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat().random_map(transform)
  dataset = dataset.batch(local)[jax.process_index() :: jax.process_count()][start:stop]
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2, 2 * threads))
  return iter(dataset.to_iter_dataset(options))


def step_names(source: Any, *, batch_size: int, seed: int, step: int) -> list[str]:
  """Names of the images of one global batch, for messages."""
  indices = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
  names = source.names
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
  pad_value: tuple[int, int, int],
  threads: int,
) -> Iterator[Arrays]:
  """Every sample once, padded to a bucket and grouped by it; the last batch of a bucket is filled up.

  Yields:
    {"image", "label", "names", "sizes"}: arrays [batch_size, ...] at bucket size, fill-up rows labelled 255
    throughout; names and label sizes (h, w) of the real rows only.
  """
  dataset = grain.MapDataset.source(source)
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * batch_size)
  waiting: dict[tuple[int, int], list[Arrays]] = {}
  for sample in dataset.to_iter_dataset(options):
    height, width = sample["label"].shape
    key = bucket(height, width, size_multiple, size_remainder)
    rows = waiting.setdefault(key, [])
    rows.append(sample)
    if len(rows) == batch_size:
      yield _stack(waiting.pop(key), key, batch_size, pad_value)
  for key, rows in waiting.items():
    yield _stack(rows, key, batch_size, pad_value)


def _stack(rows: list[Arrays], size: tuple[int, int], count: int, pad_value) -> Arrays:
  image = np.empty((count, *size, 3), np.uint8)
  image[:] = np.array(pad_value, np.uint8)
  label = np.full((count, *size), IGNORE, np.uint8)
  for i, row in enumerate(rows):
    padded = pad_to(row, *size, pad_value)
    image[i], label[i] = padded["image"], padded["label"]
  names, sizes = [r["name"] for r in rows], [r["label"].shape for r in rows]
  return {"image": image, "label": label, "names": names, "sizes": sizes}
