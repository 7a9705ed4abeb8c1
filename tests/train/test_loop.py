import re
import time

import numpy as np
import pytest

from errseg_jax.data.pipeline import step_names, train_batches
from errseg_jax.sharding import shard_batch
from errseg_jax.train.loop import NotFinite
from errseg_jax.train.trainer import Trainer
from errseg_jax.train.writers import read_metrics


class Numbers:
  """Samples that carry their own index."""

  names = tuple(f"image {i}" for i in range(11))

  def __len__(self):
    return len(self.names)

  def __getitem__(self, index):
    return {"index": np.array(index)}


def mark(sample, rng):
  """The index, and a number drawn from the sample's own generator."""
  return {"index": sample["index"], "draw": np.array(rng.integers(1 << 30))}


def order(start, stop, seed=3, threads=2):
  batches = train_batches(
    (Numbers(),), (mark,), batch_size=4, seed=seed, start=start, stop=stop, threads=threads
  )
  return [(b["index"].tolist(), b["draw"].tolist()) for b in batches]


@pytest.mark.parametrize("start", [1, 5, 12])
def test_batches_from_a_step_are_the_tail_of_all_batches(start):
  whole = order(0, 13)
  assert len(whole) == 13
  assert order(start, 13) == whole[start:]


def test_the_order_depends_on_the_seed_and_not_on_threads():
  assert order(0, 6) == order(0, 6, threads=1)
  assert order(0, 6) != order(0, 6, seed=4)


def test_every_epoch_holds_every_image_once_in_another_order():
  seen = np.concatenate([index for index, _ in order(0, 22)]).reshape(8, 11)
  assert all(sorted(epoch) == list(range(11)) for epoch in seen)
  assert len({tuple(epoch) for epoch in seen}) == 8


def test_an_image_is_augmented_anew_in_every_epoch():
  draws = np.concatenate([draw for _, draw in order(0, 22)])
  assert len(set(draws.tolist())) == len(draws)


def test_the_names_of_a_step_are_those_of_its_batch():
  for step, (index, _) in enumerate(order(0, 8)):
    names = step_names((Numbers(),), batch_size=4, seed=3, step=step)
    assert names == [Numbers.names[i] for i in index]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_images(tiny_config, tmp_path):
  config = tiny_config(
    stages__semantic__optimizer__learning_rate=1e30,
    stages__semantic__optimizer__clip_norm=0.0,
    stages__semantic__eval_every=0,
    train__log_every=4,
  )
  trainer = Trainer(config, tmp_path / "run")
  with pytest.raises(NotFinite) as caught:
    trainer.run()
  message = str(caught.value)
  # Step 1 is taken from sound weights; the log is looked at two steps later.
  step = int(re.search(r"at step (\d+)", message)[1])
  assert step == 2
  names = step_names(
    (trainer.sources["semantic"],), batch_size=8, seed=trainer.stages[0].seed(0), step=step - 1
  )
  assert ", ".join(names) in message
  assert not list((tmp_path / "run/checkpoints").rglob("commit_success.txt"))


def test_a_save_between_two_logs_does_not_make_training_look_faster(tiny_config, tmp_path, monkeypatch):
  seconds = 0.05

  def slow(batch, mesh):
    time.sleep(seconds)
    return shard_batch(batch, mesh)

  monkeypatch.setattr("errseg_jax.train.loop.shard_batch", slow)
  config = tiny_config(order=("semantic",), train__log_every=9)
  config.stages.semantic.update(steps=9, save_every=8, batch_size=8)
  Trainer(config, tmp_path / "run").run()
  rates = [
    row["time/images_per_s"]
    for row in read_metrics(tmp_path / "run" / "metrics.jsonl")
    if "train/loss" in row
  ]
  assert len(rates) == 1
  # The first batch comes before the program is compiled, and the clock starts after that.
  assert rates[0] < 9 * 8 / (8 * seconds)
