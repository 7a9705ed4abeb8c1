"""Sizes that images are evaluated at, and what a long training holds in memory."""

import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from errseg_jax.data import datasets
from errseg_jax.data.pipeline import bucket, eval_batches, train_batches
from errseg_jax.data.shard_writer import write_split
from errseg_jax.data.shards import Sharded
from errseg_jax.data.transforms import TrainTransform


@pytest.mark.parametrize(
  ("size", "multiple", "remainder", "want"),
  [
    ((1024, 2048), 32, 0, (1024, 2048)),
    ((1024, 2048), 32, 1, (1025, 2049)),  # DeepLab's and PSPNet's grid on Cityscapes
    ((1025, 2049), 32, 1, (1025, 2049)),
    ((375, 500), 512, 1, (513, 513)),
    ((1, 33), 32, 1, (1, 33)),
    ((360, 480), 32, 0, (384, 480)),
  ],
)
def test_sizes_are_multiples_plus_the_remainder(size, multiple, remainder, want):
  assert bucket(*size, multiple, remainder) == want


class Source(list):
  names = ("a", "b", "c")


def test_batches_hold_each_image_once_at_its_padded_size():
  rng, source = np.random.default_rng(0), Source()
  for name, size in zip(Source.names, [(16, 24), (9, 17), (16, 20)], strict=True):
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    source.append({"image": image, "label": rng.integers(0, 3, size, np.uint8), "name": name})
  padding = {"size_multiple": 8, "size_remainder": 1, "pad_value": (1, 2, 3)}
  batches = list(eval_batches(source, batch_size=2, threads=1, **padding))
  assert [batch["image"].shape for batch in batches] == [(2, 17, 25, 3), (2, 9, 17, 3)]
  assert [name for batch in batches for name in batch["names"]] == ["a", "c", "b"]
  for batch in batches:
    for row, name in enumerate(batch["names"]):
      sample = source[Source.names.index(name)]
      height, width = sample["label"].shape
      np.testing.assert_array_equal(batch["image"][row, :height, :width], sample["image"])
      np.testing.assert_array_equal(batch["label"][row, :height, :width], sample["label"])
      assert (batch["image"][row, height:] == (1, 2, 3)).all()
      assert (batch["label"][row, height:] == 255).all()
      assert (batch["label"][row, :, width:] == 255).all()
  assert (batches[1]["label"][1] == 255).all()  # fills the batch up


def as_it_is(sample, rng):
  return {"image": sample["image"], "label": sample["label"]}


@pytest.mark.parametrize(("count", "batch_size"), [(2, 4), (4, 4), (1, 1), (2, 2)])
def test_processes_read_the_rows_of_one_global_batch(monkeypatch, count, batch_size):
  source = [
    {"image": np.full((2, 2, 3), i, np.uint8), "label": np.full((2, 2), i, np.uint8)} for i in range(5)
  ]
  options = {"batch_size": batch_size, "seed": 3, "start": 2, "stop": 9, "threads": 1}

  def batches(index, count):
    monkeypatch.setattr("jax.process_index", lambda: index)
    monkeypatch.setattr("jax.process_count", lambda: count)
    return [batch["label"][:, 0, 0] for batch in train_batches([source], [as_it_is], **options)]

  whole, parts = batches(0, 1), [batches(i, count) for i in range(count)]
  assert [len(part) for part in parts] == [7] * count
  for step, rows in enumerate(whole):
    np.testing.assert_array_equal(np.concatenate([part[step] for part in parts]), rows)


def resident():
  """Bytes of this process in memory."""
  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
  return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.proof
@pytest.mark.parametrize("sharded", [False, True])
def test_memory_does_not_grow_over_100_000_samples(tmp_path, capsys, sharded):
  """JPEG and PNG files, or shards of them, decoded and augmented again and again."""
  rng = np.random.default_rng(0)
  for kind in ("images", "labels"):
    (tmp_path / kind / "train").mkdir(parents=True)
  for number in range(100):
    Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(tmp_path / f"images/train/{number}.jpg")
    Image.fromarray(rng.integers(0, 3, (48, 64), np.uint8)).save(tmp_path / f"labels/train/{number}.png")
  dataset = datasets.build("folders", root=str(tmp_path), num_classes=3)
  if sharded:
    write_split(dataset, "train", dataset.source("train"), tmp_path / "shards", 4, 1)
    dataset = Sharded(dataset, tmp_path / "shards")
  transforms = [TrainTransform((32, 32), blur=1.0, noise=5.0, cutout=0.3)]
  options = {"batch_size": 50, "seed": 0, "start": 0, "stop": 2000, "threads": 2}
  batches = train_batches([dataset.source("train")], transforms, **options)
  sizes = [resident() for step, _ in enumerate(batches) if step % 100 == 0]
  with capsys.disabled():
    what = "shards" if sharded else "files"
    print(f"\n{what}: {sizes[4] / 1e6:.0f} MB after 20,000 samples, {sizes[-1] / 1e6:.0f} MB after 95,000")
  assert sizes[-1] < sizes[4] + 20e6
