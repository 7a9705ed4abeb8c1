"""Checkpoints of a stage, by Orbax: WORKDIR/checkpoints/<stage>/<step>/.

The latest is kept to go on from, the best by the stage's score to use. Orbax writes to a temporary folder and
renames, so a checkpoint is whole or not there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from errseg_jax import processes
from errseg_jax.errors import UserError, disk_trouble
from errseg_jax.train.state import TrainState, Variables


def _score(metrics: dict[str, float]) -> float:
  return metrics["score"]


class StageCheckpoints:
  """The checkpoints of one stage.

  Args:
    workdir: of the run.
    stage: its name.
    steps: how many steps make it complete.
    select: "best" by score, or "last".
    create: make the folder where there is none; False refuses it.

  Raises:
    UserError: nothing was trained there, and `create` is False.
  """

  def __init__(self, workdir: pathlib.Path, stage: str, steps: int, select: str, create: bool = True):
    self.folder = pathlib.Path(workdir).absolute() / "checkpoints" / stage
    if not create and not self.folder.is_dir():
      raise UserError(f"{self.folder} is missing: `errseg train` with this workdir has not finished")
    policies = checkpoint_managers.preservation_policy
    best = policies.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False, reverse=False)
    keep = policies.AnyPreservationPolicy([policies.LatestN(1), best])
    options = ocp.CheckpointManagerOptions(
      preservation_policy=keep,
      best_fn=_score,
      best_mode="max",
      # A reader must not remove what a running trainer is just writing.
      cleanup_tmp_directories=create,
    )
    self.steps, self.select = steps, select
    handlers = {
      "state": ocp.StandardCheckpointHandler(),
      "result": ocp.StandardCheckpointHandler(),
      "progress": ocp.JsonCheckpointHandler(),
    }
    self.manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

  def save(self, state: TrainState, progress: dict[str, Any], score: float | None) -> None:
    """Writes in the background; a score makes the checkpoint a candidate for best."""
    result = state.result
    with self._disk():
      self._check_space(sum(x.nbytes for x in jax.tree.leaves((state, result))))
      self.manager.save(
        int(state.step),
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          result=ocp.args.StandardSave(result),
          progress=ocp.args.JsonSave(progress),
        ),
        metrics=None if score is None else {"score": score},
      )

  def save_result(self, step: int, result: Variables) -> None:
    """Writes a network that was trained elsewhere as what the stage hands on."""
    self.manager.save(step, args=ocp.args.Composite(result=ocp.args.StandardSave(result)))

  def restore(self, state: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
    """The latest checkpoint, placed and sharded as `state` is; None where there is none.

    Raises:
      UserError: it was written by another architecture.
    """
    step = self.manager.latest_step()
    if step is None:
      return None
    args = ocp.args.Composite(
      state=ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, state)),
      progress=ocp.args.JsonRestore(),
    )
    found = self._guard(step, "state", state, args)
    return found.state, found.progress

  def complete(self) -> bool:
    """Whether the stage has run to its end."""
    return self.manager.latest_step() == self.steps

  def result(self, like: Variables) -> Variables:
    """The variables that the stage hands on: its best checkpoint, or its last.

    Raises:
      UserError: there is none, the stage is not complete, or its arrays are not those of `like`.
    """
    step = self.manager.best_step() if self.select == "best" else None
    step = self.manager.latest_step() if step is None else step
    if step is None:
      raise UserError(f"{self.folder}: no checkpoint; run `errseg train` with this workdir first")
    if not self.complete():
      raise UserError(
        f"{self.folder}: its training stopped at step {self.manager.latest_step()} of {self.steps}; "
        "run `errseg train` with this workdir again to finish it"
      )
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    args = ocp.args.Composite(result=ocp.args.StandardRestore(abstract))
    return self._guard(step, "result", like, args).result

  def _guard(self, step: int, item: str, like: Any, args: Any) -> Any:
    """Restores `step` if names and shapes fit."""
    stored = self.manager.item_metadata(step)[item]
    differing = _differences(_shapes(stored), _shapes(like))
    if differing:
      raise UserError(f"{self.folder}/{step}: the checkpoint does not fit this model: {differing}")
    return self.manager.restore(step, args=args)

  def wait(self) -> None:
    """Until what was saved is on disk."""
    with self._disk():
      self.manager.wait_until_finished()

  def _check_space(self, count: int) -> None:
    """Before Orbax begins, as its threads would tell of a full disk at length; it writes arrays twice, then merges."""
    self.manager.wait_until_finished()  # of the checkpoint before, as saving would
    if shutil.disk_usage(self.folder).free < 2 * count:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  @contextlib.contextmanager
  def _disk(self) -> Iterator[None]:
    """Says in one line what the disk refuses; what was saved before stays."""
    try:
      yield
    except (OSError, ValueError, RuntimeError) as error:  # what Orbax makes of it depends on where it happens
      if not (reason := disk_trouble(error)):
        raise
      whole = [int(path.name) for path in self.folder.glob("*") if path.name.isdigit()]
      kept = f"that of step {max(whole)} is whole" if whole else "there is none before it"
      raise UserError(
        f"{self.folder}: a checkpoint cannot be written ({reason}); {kept}. Mend that and start the same command again"
      ) from None

  def finish(self) -> None:
    """What is being written becomes whole before the run ends by an error that has nothing to do with it.

    Of several processes none waits here: a checkpoint is whole when all have written their parts, and the others may
    be gone.
    """
    if not processes.several():
      with contextlib.suppress(UserError):
        self.wait()

  def close(self) -> None:
    self.manager.close()


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  leaves = jax.tree_util.tree_flatten_with_path(getattr(tree, "tree", tree))[0]
  return {
    "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path): tuple(
      leaf.shape
    )
    for path, leaf in leaves
  }


def _differences(stored: dict, wanted: dict) -> str:
  """One line: missing, extra and differently shaped names; "" where all fit."""
  parts = []
  for title, names in (
    ("missing", wanted.keys() - stored.keys()),
    ("extra", stored.keys() - wanted.keys()),
  ):
    if names:
      parts.append(f"{title} {_some(sorted(names))}")
  other = sorted(k for k in stored.keys() & wanted.keys() if stored[k] != wanted[k])
  if other:
    parts.append("shape " + _some([f"{k} {stored[k]} where {wanted[k]} is needed" for k in other]))
  return "; ".join(parts)


def _some(names: list[str]) -> str:
  return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
