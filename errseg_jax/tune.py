"""`errseg tune`: weights of views and settings of the CRF, on images that trained nothing."""

from __future__ import annotations

import pathlib
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from errseg_jax import assemble, processes
from errseg_jax.errors import UserError
from errseg_jax.inference.choice import Choice
from errseg_jax.inference.evaluator import make_evaluator
from errseg_jax.inference.tune import Tuner
from errseg_jax.inference.tuned import Tuned, asked
from errseg_jax.progress import progress_bar
from errseg_jax.sharding import make_mesh, place
from errseg_jax.train.restore import trained_variables
from errseg_jax.train.stages import plan, trained_branches
from errseg_jax.train.workdir import check_writable, load_config


def tune(config: ConfigDict, workdir: pathlib.Path) -> pathlib.Path:
  """Tunes what the config asks of the network at rest, prints what it gives there, and writes tuned.json.

  Args:
    config: of the workdir, with the views and the CRF that `evaluate` and `predict` will be given.
    workdir: of a finished run.

  Returns:
    The path of tuned.json.

  Raises:
    UserError: nothing to tune, no unseen images, or a workdir that is not finished.
  """
  if processes.several():
    raise UserError("views and the CRF are tuned by one process: start it with --distributed=off")
  if not asked(config):
    raise UserError(
      "nothing to tune: ask for --config.views.combine=learned with several views, or for a CRF by "
      "--config.crf.iterations=5"
    )
  check_writable(workdir)
  dataset = assemble.dataset(config)
  source, on = unseen(config, load_config(workdir), dataset)
  model, mesh = assemble.model(config, dataset.info.num_classes), make_mesh(config.num_devices)
  branches = trained_branches(plan(config))
  tuner = Tuner(
    make_evaluator(config, mesh),
    model,
    place(trained_variables(config, workdir, model), mesh),
    branches,
    Choice.load(workdir) if "detail" in branches else Choice(),
    source,
    workdir / "views",
    progress_bar,
  )
  found = tuner.run(config, assemble.crf(config), on)
  print_candidates(found)
  return found.save(workdir)


def unseen(config: ConfigDict, trained: ConfigDict, dataset: Any) -> tuple[Any, str]:
  """(images that trained nothing and are not reported, what they are in words).

  Args:
    config: with the flags of this call: splits.choose may name a split that the run has not seen.
    trained: config of the run.
    dataset: of both.

  Raises:
    UserError: there are none, or other splits are changed.
  """
  own, here = trained.splits.to_dict(), config.splits.to_dict()
  if changed := [key for key in own if own[key] != here[key] and key != "choose"]:
    raise UserError(
      f"config.splits.{changed[0]} is that of the run, {own[changed[0]]!r}: it says what was trained on"
    )
  name = here["choose"]
  if name in (own["train"], own["val"]) or (name != own["choose"] and not name):
    raise UserError(
      f"splits.choose={name!r} is trained on or reported: name a split of other images by --config.splits.choose"
    )
  if name != own["choose"]:
    source = dataset.source(name)
    return source, f"{len(source)} images (split {name})"
  source = assemble.splits(trained).sources(dataset)["choose"]
  return source, f"{len(source)} images that chose the checkpoint"


def print_candidates(found: Tuned) -> None:
  """mIoU of everything that was compared."""
  table = Table(title=f"mIoU on {found.on}")
  for column in ("", "mIoU"):
    table.add_column(column, justify="right" if column else "left")
  for name, score in found.candidates.items():
    table.add_row(name, f"{score:.2f}")
  Console().print(table)
