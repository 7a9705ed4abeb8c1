"""Trains and scores what an ablation lacks, row by row; a killed one goes on where it was."""

from __future__ import annotations

import gc
import logging
import pathlib
import signal
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from errseg_jax import assemble, processes
from errseg_jax.ablation.class_gains import count_base
from errseg_jax.ablation.rows import BASE, FAMILIES, ROWS
from errseg_jax.ablation.shared import take
from errseg_jax.ablation.write import write
from errseg_jax.errors import UserError
from errseg_jax.evaluate import check_scores, evaluate
from errseg_jax.inference.extra_scores import SCORES
from errseg_jax.inference.tuned import asked
from errseg_jax.models.error_aware import ErrorAware
from errseg_jax.pixel_losses import InverseFrequency
from errseg_jax.train.given import abstract_variables
from errseg_jax.train.loop import NotFinite
from errseg_jax.train.optim import make_optimizer
from errseg_jax.train.stages import plan
from errseg_jax.train.state import split
from errseg_jax.train.trainer import Trainer, keep_files
from errseg_jax.train.workdir import claim
from errseg_jax.tune import tune

log = logging.getLogger("errseg")

SCORED = "default"  # the row whose frozen network, the base, is asked for the scores of further passes


def ablate(config: ConfigDict, workdir: pathlib.Path, names: Sequence[str], seeds: int) -> dict[str, str]:
  """Runs the rows of every seed that are not finished; writes the tables after each.

  Args:
    config: of the comparison; its seed is the first one.
    workdir: gets seed<N>/<row>/, each the workdir of an ordinary run, and ablation.json, ablation.md, plots/.
    names: rows, or families of rows; () takes those of correction.
    seeds: how many.

  Returns:
    {"seed0/paper": what stopped that row}; the other rows went on without it.

  Raises:
    UserError: an unknown row, a config that a row cannot use, or the workdir of another config: before
      anything trains.
    Stopped: SIGTERM came while a row trained; its state is saved.
  """
  config = config.copy_and_resolve_references()
  keep_files(config)
  rows = chosen(names, config)
  if seeds < 1:
    raise UserError(f"--seeds={seeds} must be at least 1")
  for name in rows:
    check(name, row_config(config, workdir, config.seed, name))
  claim(workdir, config)
  failed: dict[str, str] = {}
  every = range(config.seed, config.seed + seeds)
  for seed in every:
    for name in rows:
      folder = row_folder(workdir, seed, name)
      if not (folder / "results.json").exists():
        try:
          if ROWS[name].family == "confusion" and not config.groups.named:
            count_base(row_folder(workdir, seed, BASE))
          run_row(row_config(config, workdir, seed, name), folder, further=name == SCORED)
        except (UserError, NotFinite) as error:
          if name == BASE:
            raise
          failed[f"seed{seed}/{name}"] = str(error)
        except jax.errors.JaxRuntimeError as error:  # a smaller row may still fit into the memory
          if name == BASE or "RESOURCE_EXHAUSTED" not in str(error):
            raise
          failed[f"seed{seed}/{name}"] = "the device has too little memory; lower its stages' batch_size"
      if processes.first():
        write(workdir, config, rows, every, failed)
      processes.wait()
  return failed


def chosen(names: Sequence[str], config: ConfigDict) -> list[str]:
  """The rows to run, in the order of ROWS, the base first.

  Raises:
    UserError: an unknown one, a row that must train a network where one is given, or a cascade's config.
  """
  given = bool(config.segmenter.init)
  if "cascade" in config.order:
    raise UserError(
      "an ablation wants the config with a stage for each branch: its row cascade makes a cascade of it"
    )
  for name in names:
    assemble.known(name, {**FAMILIES, **ROWS}, "--rows")
    own = [row for row in FAMILIES.get(name, (name,)) if row != BASE]
    if given and own and all(ROWS[row].anew for row in own):
      raise UserError(
        f"--rows={name} trains a semantic network from the start, and config.segmenter.init gives one; leave it out"
      )
  wanted = {BASE}
  for name in names or ("correction",):
    family = {row for row in FAMILIES.get(name, ()) if not (given and ROWS[row].anew)}
    wanted |= family or {name}
  return [name for name in ROWS if name in wanted]


def row_folder(workdir: pathlib.Path, seed: int, name: str) -> pathlib.Path:
  """The workdir of one row of one seed."""
  return workdir / f"seed{seed}" / name


def row_config(config: ConfigDict, workdir: pathlib.Path, seed: int, name: str) -> ConfigDict:
  """The config of one row of one seed."""
  config = config.copy_and_resolve_references()
  config.seed = seed
  return ROWS[name].config(config, str(row_folder(workdir, seed, BASE).resolve()))


def check(name: str, config: ConfigDict) -> None:
  """Builds a row without training it.

  Raises:
    UserError: it cannot be trained; says which row.
  """
  config = config.copy_and_resolve_references()
  try:
    if "subnets" in config.order and not config.groups.named:  # they are found when the base is trained
      config.groups.named = (assemble.dataset(config).info.classes[:2],)
    for stage in plan(config):
      assemble.loss(config, stage.kind)
    trainer = Trainer(uncounted(config), pathlib.Path())
    trainer.dataset.source(config.splits.val)
    if asked(config) and trainer.splits.both_ways:
      raise UserError(
        f"it is tuned on images that are not reported, and splits.choose={config.splits.choose!r} is: name another"
      )
    variables = abstract_variables(trainer.model)
    for stage in trainer.stages:
      make_optimizer(stage.optimizer, stage.steps, split(variables, stage.groups)[0]["params"])
  except UserError as error:
    raise UserError(f"row {name!r}: {error}") from None


def uncounted(config: ConfigDict) -> ConfigDict:
  """A copy without class weights that every label would have to be read for."""
  config = config.copy_and_resolve_references()
  for name in ("semantic_loss", "detail_loss"):
    config[name].balance = 0.0
    if isinstance(assemble.pixel_loss(config, name), InverseFrequency):
      config[name].pixel = {"name": "cross_entropy"}
  return config


def further_scores(model: ErrorAware) -> tuple[str, ...]:
  """The error scores of further passes that a network can give: without dropout there is no mc_dropout."""
  variables, found = abstract_variables(model), []
  for score in SCORES:
    try:
      check_scores((score,), model, variables)
    except UserError:
      continue
    found.append(score)
  return tuple(found)


def run_row(config: ConfigDict, folder: pathlib.Path, further: bool = False) -> None:
  """Trains and scores one row; results.json is written last.

  Args:
    config: of the row.
    folder: its workdir.
    further: score what the frozen network says of its errors in further passes, too.
  """
  log.info("%s", folder)
  trainer = Trainer(config, folder)
  if processes.first() and (taken := take(trainer.config, folder)):
    log.info("%s: trained in another row, with the same result", ", ".join(taken))
  processes.wait()
  trainer.run()
  if not processes.several():  # there jax's service has the signal
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # scoring has no state to save
  scores = further_scores(trainer.model) if further else ()
  if asked(trainer.config):
    tune(trainer.config, folder)
  evaluate(trainer.config, folder, config.splits.val, scores, oracle=True)
  del trainer
  jax.clear_caches()  # a compiled program holds memory, and the next row has its own
  gc.collect()
