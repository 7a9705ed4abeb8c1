"""Errors of networks that were trained without the images: what each network and each branch sees."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from errseg_jax.assemble import with_defaults
from errseg_jax.train import loop
from errseg_jax.train import trainer as module
from errseg_jax.train.checkpoints import StageCheckpoints
from errseg_jax.train.loop import Stopped
from errseg_jax.train.memory import compiled_step
from errseg_jax.train.state import split
from errseg_jax.train.writers import read_metrics

FOLDS = ("fold0", "fold1")


def segmenter(variables):
  return [np.asarray(a) for a in jax.tree.leaves(split(variables, ("segmenter",))[0])]


def same(a, b):
  return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@dataclasses.dataclass
class Seen:
  """What the steps of one stage were given.

  Attributes:
    names: of the images, by step.
    frozen: leaves of the frozen segmenter, by step; empty where it is trained.
    start: leaves of the trained segmenter before the first step.
    programs: compiled for the stage.
  """

  names: list
  frozen: list
  start: list
  programs: int = 0


@pytest.fixture(scope="module")
def seen(tiny_config, tmp_path_factory):
  """({stage: Seen}, trainer, {stage: leaves of its segmenter's result}) of a run of two folds, with an error branch."""
  workdir, stages = tmp_path_factory.mktemp("crossfit") / "run", {}
  changes = {"splits__error_source": "crossfit", "splits__folds": 2, "train__select": "last"}
  changes |= {"order": ("semantic", "error"), "stages__error__steps": 5}

  class Recording(module.Loop):
    def run(self, state, frozen, pending):
      own = stages[self.stage.name] = Seen([], [], segmenter(state.variables))

      def recorded(*arguments):
        """A program of the step, which refuses arguments of other shapes and shardings; what it is given is kept."""
        program = compiled_step(*arguments)
        own.programs += 1

        def record(state, frozen, batch):
          own.names.append(self.names(len(own.names)))
          own.frozen.append(segmenter(frozen))
          return program(state, frozen, batch)

        return record

      patch.setattr(loop, "compiled_step", recorded)
      return super().run(state, frozen, pending)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(module, "Loop", Recording)
    trainer = module.Trainer(with_defaults(tiny_config(**changes)), workdir)
    trainer.run()
  like = split(module.initial_variables(trainer.model, trainer.config), ("segmenter",))[0]
  results = {n: segmenter(StageCheckpoints(workdir, n, 4, "last").result(like)) for n in ("semantic", *FOLDS)}
  return stages, trainer, results


@pytest.mark.parametrize("fold", FOLDS)
def test_no_image_of_its_fold_trains_a_network(seen, fold):
  stages, trainer, _ = seen
  left_out, used = set(trainer.sources[fold].names), {n for names in stages[fold].names for n in names}
  assert used == set(trainer.sources["semantic"].names) - left_out


def test_every_network_starts_where_the_final_one_did(seen):
  stages, _, results = seen
  for fold in FOLDS:
    assert same(stages[fold].start, stages["semantic"].start)
    assert not same(results[fold], results["semantic"])
  assert not same(results["fold0"], results["fold1"])


def test_each_step_of_a_branch_sees_images_through_the_network_without_them(seen):
  stages, trainer, results = seen
  error = stages["error"]
  assert len(error.names) == 5
  for step, (names, frozen) in enumerate(zip(error.names, error.frozen, strict=True)):
    fold = FOLDS[step % 2]
    assert set(names) <= set(trainer.sources[fold].names)
    assert same(frozen, results[fold])
  assert error.programs == 1


def test_scores_come_from_the_final_network(seen):
  _, trainer, _ = seen
  rows = read_metrics(trainer.workdir / "metrics.jsonl")
  scores = {row["stage"]: row["choose/semantic/mIoU"] for row in rows if "choose/semantic/mIoU" in row}
  assert scores["error"] == scores["semantic"]
  assert all("train/error_rate" in r for r in rows if r["stage"] == "error" and "train/loss" in r)
  (rate,) = {r["choose/error_rate"] for r in rows if "choose/error_rate" in r}
  assert 0 < rate < 100
  assert scores["semantic"] not in (scores["fold0"], scores["fold1"])


def test_a_branch_that_is_stopped_between_folds_goes_on_with_the_next(seen, tmp_path, monkeypatch):
  _, trainer, _ = seen
  workdir = shutil.copytree(trainer.workdir, tmp_path / "run")
  shutil.rmtree(workdir / "checkpoints/error")

  class Stopping(module.Loop):
    def run(self, state, frozen, pending):
      step = self.step

      def stop_at_the_third(state, frozen, batch):
        self.stop.received = int(state.step) == 2
        return step(state, frozen, batch)

      self.step = stop_at_the_third
      return super().run(state, frozen, pending)

  monkeypatch.setattr(module, "Loop", Stopping)
  monkeypatch.setattr(loop, "compiled_step", lambda step, *_: step)
  with pytest.raises(Stopped):
    module.Trainer(trainer.config, workdir).run()
  assert not (workdir / "checkpoints/error/5").exists()
  module.Trainer(trainer.config, workdir).run()
  like = split(module.initial_variables(trainer.model, trainer.config), ("error",))[0]
  whole, halved = (
    jax.tree.leaves(StageCheckpoints(folder, "error", 5, "last").result(like))
    for folder in (trainer.workdir, workdir)
  )
  assert same(whole, halved)


def test_what_is_pasted_into_a_fold_comes_from_that_fold(tiny_config, tmp_path):
  """Else a branch would see the errors of a network on regions that it has learnt."""
  changes = {"splits__error_source": "crossfit", "splits__folds": 2, "transform__copy_paste": 0.5}
  trainer = module.Trainer(
    with_defaults(tiny_config(order=("semantic", "error"), **changes)), tmp_path / "run"
  )
  stages = {stage.name: stage for stage in trainer.stages}
  for fold, transform in zip(FOLDS, trainer.transforms["error"], strict=True):
    assert transform.parts[0].source is trainer.sources[fold]
    (own,) = trainer.transforms[fold]
    assert own.parts[0].source is trainer.sources[f"without_{fold}"]
  assert len(trainer.transforms["semantic"]) == 1
  assert stages["error"].folds == FOLDS
