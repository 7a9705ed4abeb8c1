"""A whole run: its stages in order, then the choice."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from clu import parameter_overview
from ml_collections import ConfigDict

from errseg_jax import assemble, processes
from errseg_jax.data.augmentations import Chain
from errseg_jax.data.pipeline import step_names, train_batches
from errseg_jax.errors import UserError
from errseg_jax.inference.choice import Choice
from errseg_jax.inference.choose import choose, choose_both_ways
from errseg_jax.inference.evaluator import make_evaluator
from errseg_jax.inference.statistics import make_counter
from errseg_jax.metrics.calibration import CALIBRATIONS, fit
from errseg_jax.models.error_aware import ErrorAware
from errseg_jax.models.fusion import BLIND, CANDIDATES
from errseg_jax.models.heads.dpc_cells import cell_text
from errseg_jax.pixel_losses import Confusion
from errseg_jax.sharding import make_mesh, place
from errseg_jax.train.cache import cache_of, check_network
from errseg_jax.train.checkpoints import StageCheckpoints
from errseg_jax.train.confusion import ConfusionInput, check_confusion, with_groups
from errseg_jax.train.initialise import initial_variables
from errseg_jax.train.loop import Loop, NotFinite, StopSignal
from errseg_jax.train.optim import make_optimizer
from errseg_jax.train.pictures import Album
from errseg_jax.train.score import StageScore
from errseg_jax.train.stages import BRANCHES, FIRST, RANKS, Stage, plan, trained_branches
from errseg_jax.train.state import TrainState, Variables, merge, split
from errseg_jax.train.step import make_step
from errseg_jax.train.wandb_run import import_wandb
from errseg_jax.train.workdir import claim, flat
from errseg_jax.train.writers import MetricWriter, cut_metrics, make_writer

log = logging.getLogger("errseg")


def keep_files(config: ConfigDict) -> None:
  """Makes a config independent of the folder it is read from: files by their whole path, or read into it."""
  for key in ("init", "backbone_weights"):
    if config.segmenter[key]:
      config.segmenter[key] = str(pathlib.Path(config.segmenter[key]).resolve())
  if config.segmenter.head.get("cell"):
    config.segmenter.head.cell = cell_text(config.segmenter.head.cell)


class Trainer:
  """Builds everything of a config and trains it in a workdir; goes on where an earlier run ended.

  Args:
    config: the resolved config.
    workdir: of the run.

  Raises:
    UserError: any mistake in the config or the data set, before training starts.
  """

  def __init__(self, config: ConfigDict, workdir: pathlib.Path):
    self.config, self.workdir = config, pathlib.Path(workdir)
    config = with_groups(config)
    self.stages = plan(config)
    self.mesh = make_mesh(config.num_devices, config.train.model_devices)
    for stage in self.stages:
      if stage.batch_size % self.mesh.shape["data"]:
        raise UserError(
          f"stages.{stage.kind}.batch_size={stage.batch_size} is not a multiple of {self.mesh.shape['data']} devices"
        )
    self.check_groups()
    self.dataset = assemble.dataset(config)
    self.splits = assemble.splits(config)
    self.sources = self.splits.sources(self.dataset)
    self.cache = cache_of(config)
    # Of each source that a stage reads: what is pasted into a fold's images comes from that fold.
    self.transforms = {
      stage.name: [assemble.transform(config, stage.source, source) for source in self.sources_of(stage)]
      for stage in self.stages
    }
    classes = self.dataset.info.num_classes
    self.config = config = assemble.with_class_weights(config, self.sources, classes)
    keep_files(config)
    # These are for a trained network: nothing is trained, scored or chosen through them.
    self.model = assemble.model(config, classes).clone(sparse=None, views=None, tiles=None)
    if config.train.model_devices > 1:  # the kernels split a batch over all devices
      self.model = self.model.clone(kernels="reference")
    self.losses = {stage.name: assemble.loss(config, stage.kind) for stage in self.stages}
    check_confusion(self.losses, self.splits, bool(config.segmenter.init))
    assemble.thresholds(config)
    assemble.crf(config)  # checked now, used by what comes after training
    if not config.choose.fusions:
      raise UserError(f"config.choose.fusions is empty; known: {', '.join(CANDIDATES)}")
    self.branches = trained_branches(self.stages)
    if "detail" in self.branches and not self.fuses:
      raise UserError(
        f"config.choose.fusions={tuple(config.choose.fusions)} all ask the error branch, which config.order="
        f"{tuple(config.order)} does not train: add one of {', '.join(BLIND)}"
      )
    for fusion in config.choose.fusions:
      assemble.known(fusion, CANDIDATES, "config.choose.fusions")
      if fusion == "refined" and self.model.refine is None:
        raise UserError(
          "config.choose.fusions: 'refined' is what a cascade makes of its branches; order has none"
        )
    assemble.known(config.choose.calibration, CALIBRATIONS, "config.choose.calibration")
    assemble.known(config.train.select, ("best", "last"), "config.train.select")
    if self.splits.both_ways and config.train.select == "best":
      raise UserError(
        f"splits.choose={self.splits.choose!r} is also the reported split: its best checkpoint would be chosen "
        "on what is reported. Name another split, leave it empty to hold out splits.choose_fraction of the "
        "training images, or set train.select='last' to choose on each half of it for the other half"
      )
    self.evaluator = make_evaluator(config, self.mesh)
    if config.train.wandb and processes.first():
      import_wandb(config.train.wandb)  # missing, it is told of now

  def run(self) -> None:
    """Trains every stage that is not complete, then writes choice.json.

    Raises:
      Stopped: SIGTERM came; the state is saved.
      NotFinite: a loss was NaN.
      UserError: a damaged file, or a workdir of another config.
    """
    variables = initial_variables(self.model, self.config)
    if self.cache is not None:
      check_network(self.cache, variables, self.config.loader.features)
    variables = place(variables, self.mesh)
    for stage in self.stages:  # a mistake in the last one's optimizer must not wait until it starts
      make_optimizer(stage.optimizer, stage.steps, split(variables, stage.groups)[0]["params"])
    claim(self.workdir, self.config)
    stop = StopSignal()
    self.describe(variables)
    with contextlib.closing(make_writer(self.workdir, self.config)) as writer:
      self.run_stages(variables, writer, stop)

  def run_stages(self, variables: Variables, writer: MetricWriter, stop: StopSignal) -> None:
    """The stages that are not complete, then choice.json."""
    offset, fresh = 0, False
    # Fold stages start where the semantic stage did; the branches learn from the networks that they leave.
    first = variables if any(stage.restarts for stage in self.stages) else {}
    networks: dict[str, Variables] = {}
    for stage in self.stages:
      writer.start_stage(offset)
      begin = first if stage.restarts else variables
      result, trained = self.run_stage(stage, begin, [networks[fold] for fold in stage.folds], writer, stop)
      fresh = fresh or trained
      if stage.restarts:
        networks[stage.name] = result
      variables = variables if stage.aside else merge(variables, result)
      offset += stage.steps
    choice = None
    if self.fuses and (fresh or not (self.workdir / "choice.json").exists()):
      choice = self.choose(variables)
      if processes.first():
        choice.save(self.workdir)
    if fresh or choice is not None:
      writer.write_run(flat(self.config), offset, {} if choice is None else choice.scores())
    processes.wait()

  @property
  def fuses(self) -> bool:
    """There is something to choose from: a detail branch, and an error branch where the fusions ask one."""
    trained, fusions = self.branches, self.config.choose.fusions
    return "detail" in trained and ("error" in trained or bool(set(BLIND) & set(fusions)))

  def model_of(self, stage: Stage) -> ErrorAware:
    """The network as a stage meets it: with guidance and subnets from their own stages on, and whole images."""
    model = self.model.clone(early_exit=None)
    if RANKS.get(stage.kind, 0) < RANKS["subnets"]:
      model = model.clone(subnets=None)
    return model if stage.kind in ("guided", *BRANCHES) else model.clone(guidance=None)

  def network_before(self, stage: Stage) -> ErrorAware:
    """The network whose errors a stage starts from: without what the stage itself is to add."""
    model = self.model_of(stage)
    if "subnets" in stage.groups:
      model = model.clone(subnets=None)
    return model.clone(guidance=None) if "guidance" in stage.groups else model

  def check_groups(self) -> None:
    for part in ("backbone", "head"):
      group = self.config.segmenter[part].get("bn_group_size", 0)
      for stage in self.stages:
        if group and "segmenter" in stage.groups and stage.batch_size % group:
          raise UserError(
            f"segmenter.{part}.bn_group_size={group} does not divide stages.{stage.kind}.batch_size="
            f"{stage.batch_size}"
          )

  def describe(self, variables: Variables) -> None:
    """Logs images and parameters by part."""
    images = ", ".join(f"{len(source)} {name}" for name, source in self.sources.items())
    sizes = {g: int(parameter_overview.count_parameters(p)) for g, p in variables["params"].items()}
    parameters = ", ".join(f"{g} {n:,}" for g, n in sizes.items())
    log.info("images: %s; parameters: %s; devices: %d", images, parameters, self.mesh.devices.size)

  def run_stage(
    self,
    stage: Stage,
    variables: Variables,
    networks: Sequence[Variables],
    writer: MetricWriter,
    stop: StopSignal,
  ) -> tuple[Variables, bool]:
    """(what the stage hands on, whether it had anything left to train).

    Args:
      stage: to train or, where it is complete, to load.
      variables: of all groups, to start from; scores on the choose split come from their frozen groups.
      networks: segmenters of the stage's folds, in whose place they come in its steps.
      writer: of metrics.
      stop: looked at after each step.
    """
    config = self.config
    checkpoints = StageCheckpoints(self.workdir, stage.name, stage.steps, config.train.select)
    trained, frozen = split(variables, stage.groups)
    tx = make_optimizer(stage.optimizer, stage.steps, trained["params"])
    fresh = not checkpoints.complete()
    if fresh:
      state = place(TrainState.create(trained, tx, stage.ema > 0), self.mesh)
      progress: dict[str, Any] = {"step": 0, "pending": []}
      if (found := checkpoints.restore(state)) is not None:
        state, progress = found
        log.info("stage %s goes on from step %d", stage.name, progress["step"])
      cut_metrics(writer.path, [s.name for s in self.stages], stage.name, progress["step"])
      loop = self.make_loop(stage, tx, frozen, checkpoints, writer, stop)
      loop.confusion = self.confusion_input(stage, variables, frozen, progress)
      in_turn = [merge(frozen, network) for network in networks] or [frozen]
      try:
        loop.run(state, in_turn, progress["pending"])
      except (UserError, NotFinite):
        checkpoints.finish()
        raise
    result = checkpoints.result(trained)
    checkpoints.close()
    return result, fresh

  def make_loop(
    self,
    stage: Stage,
    tx: Any,
    frozen: Variables,
    checkpoints: StageCheckpoints,
    writer: MetricWriter,
    stop: StopSignal,
  ) -> Loop:
    config = self.config
    sources, transforms, prepared = self.reads(stage)
    order = {"batch_size": stage.batch_size, "seed": stage.seed(config.seed)}
    batches = functools.partial(
      train_batches,
      sources,
      transforms,
      stop=stage.steps,
      threads=config.loader.threads,
      **order,
    )
    return Loop(
      stage,
      make_step(
        self.model_of(stage),
        stage,
        self.make_loss(stage, frozen),
        tx,
        config.seed,
        config.train.remat,
        self.mesh,
      ),
      lambda start: prepared(batches(start=start)),
      lambda step: step_names(sources, step=step, **order),
      self.make_score(stage, frozen),
      checkpoints,
      writer,
      config.train.log_every,
      stop,
      self.mesh,
    )

  def reads(self, stage: Stage, cached: bool = True) -> tuple[list[Any], list[Any], Any]:
    """(sources, the transform of each, what turns an iterator of their batches into the stage's).

    Args:
      stage: that reads.
      cached: of the branches, from the cache of features where the config names one.
    """
    if cached and self.cache is not None and stage.kind in BRANCHES:
      return [self.cache], [Chain(())], functools.partial(map, self.cache.assembled)
    return self.sources_of(stage), self.transforms[stage.name], iter

  def sources_of(self, stage: Stage) -> list[Any]:
    """The images that a stage trains on, in turn."""
    return [self.sources[name] for name in stage.folds or (stage.source,)]

  def confusion_input(
    self, stage: Stage, variables: Variables, frozen: Variables, progress: Mapping[str, Any]
  ) -> ConfusionInput | None:
    """The confusion matrix that the stage's loss wants; None where it wants none.

    At the start it is the frozen network's, or that of the network to be trained on; counted again it is that of
    what the stage trains. A network from nothing confuses everything: until the first count none is held against it.
    """
    loss = self.losses[stage.name]
    pixel = getattr(loss, "pixel", None)
    if not isinstance(pixel, Confusion) or not pixel.wants_confusion:
      return None
    source = self.sources[stage.source if pixel.on == "train" else "choose"]

    def count(model: ErrorAware, name: str, wanted: Sequence[str], values: Variables) -> np.ndarray:
      counter = make_counter(self.evaluator.at_home(model), wanted=wanted)
      return self.evaluator.run(counter, values, source, Choice()).counts[f"confusion/{name}"]

    if "confusion" in progress:
      counts = np.asarray(progress["confusion"], np.int64)
    elif stage.kind in (*FIRST, "cascade") and stage is self.stages[0] and not self.config.segmenter.init:
      counts = np.eye(self.dataset.info.num_classes, dtype=np.int64)
    else:
      counts = count(self.network_before(stage), "semantic", (), variables)
    name = "detail" if stage.kind == "detail" else "semantic"
    return ConfusionInput(
      pixel.refresh,
      lambda trained: count(self.model_of(stage), name, stage.wanted, merge(frozen, trained)),
      lambda counts: place(loss.matrices(counts), self.mesh),
      counts,
    )

  def make_loss(self, stage: Stage, frozen: Variables) -> Any:
    """The stage's loss; a detail loss that goes by P_ep gets its calibration, fitted on the choose split.

    Where that split is also the reported one, P_ep stays raw.
    """
    loss = self.losses[stage.name]
    if stage.name != "detail" or loss.max_probability or loss.weights == "all" or self.splits.both_ways:
      return loss
    if self.config.choose.calibration == "none":
      return loss
    counter = make_counter(self.evaluator.at_home(self.model), wanted=("error",))
    counts = self.evaluator.run(counter, frozen, self.sources["choose"], Choice()).counts
    return dataclasses.replace(
      loss, calibration=fit(self.config.choose.calibration, counts["histogram/error_raw"])
    )

  def make_score(self, stage: Stage, frozen: Variables) -> StageScore:
    """Scores on the choose split, and strips of some of its images."""
    model, source, info = (
      self.evaluator.at_home(self.model_of(stage)),
      self.sources["choose"],
      self.dataset.info,
    )
    so_far = self.stages[: self.stages.index(stage) + 1]
    branches = () if stage.aside else trained_branches(so_far)
    count = self.config.train.log_images
    album = Album(self.evaluator, model, source, count, branches, info.palette)
    thresholds = assemble.thresholds(self.config)
    return StageScore(stage, frozen, model, self.evaluator, source, info.classes, thresholds, album)

  def choose(self, variables: Variables) -> Choice:
    """Calibration, fusion and threshold, on images that trained nothing."""
    section, splits = self.config.choose, self.splits
    count = len(self.sources["choose"])
    held = f"{splits.choose_fraction:.0%} of split {splits.train}, held out"
    where = f"split {splits.choose}" if splits.choose else held
    if splits.both_ways:
      where += ", each half for the other half"
    log.info("choosing on %d images (%s)", count, where)
    return (choose_both_ways if splits.both_ways else choose)(
      self.evaluator,
      self.evaluator.at_home(self.model),
      variables,
      self.sources["choose"],
      calibration=section.calibration,
      fusions=tuple(section.fusions),
      thresholds=assemble.thresholds(self.config),
      on=f"{count} images ({where})",
      wanted=self.branches,
    )
