"""What each command does: thin, one function apiece. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import argparse
import logging
import os
import pathlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from errseg_jax.errors import UserError
from errseg_jax.host_memory import keep_freed_memory

if TYPE_CHECKING:
  from ml_collections import ConfigDict

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "errseg_jax"


def train(args: argparse.Namespace) -> int:
  """Train all stages in order; goes on by itself from the last checkpoint in the workdir."""
  config = required_config(args)
  prepare(config, args.distributed)
  from errseg_jax.train.loop import NotFinite, Stopped
  from errseg_jax.train.trainer import Trainer

  try:
    Trainer(config, workdir(args)).run()
  except Stopped:
    print(f"stopped; the same command goes on from {args.workdir}", file=sys.stderr)
    return 143
  except NotFinite as error:
    print(f"errseg: {error}", file=sys.stderr)
    return 1
  return 0


def evaluate(args: argparse.Namespace) -> int:
  """Score a trained workdir on a split: results.json and a table."""
  config = workdir_config(args)
  prepare(config, args.distributed)
  from errseg_jax.evaluate import evaluate as run

  scores = tuple(name.strip() for name in args.scores.split(",") if name.strip())
  run(config, workdir(args), args.split or config.splits.val, scores, args.confidnet, args.oracle)
  return 0


def predict(args: argparse.Namespace) -> int:
  """Label images: labels, corrected labels, error map, overlay, predictions.csv."""
  config = workdir_config(args)
  prepare(config, args.distributed)
  from errseg_jax import processes
  from errseg_jax.predict import predict as run

  output = pathlib.Path(args.output) if args.output else workdir(args) / "predictions"
  table = run(workdir(args), [pathlib.Path(p) for p in args.images], output, config)
  if processes.first():
    print(table)
  return 0


def report(args: argparse.Namespace) -> int:
  """Write report.html, one file without network, of an evaluated workdir; of several comparison.html, side by side."""
  folders = [pathlib.Path(folder) for folder in args.workdirs]
  if args.workdir and folders:
    raise UserError("errseg report: name the workdirs in one way, as `errseg report W` or with --workdir=W")
  folders = folders or [workdir(args)]
  if len({folder.resolve() for folder in folders}) < len(folders):
    raise UserError("errseg report: one of the workdirs is named twice")
  configs = [config_of(folder, args.overrides) for folder in folders]
  prepare(configs[0])
  from errseg_jax.report.collect import report as single
  from errseg_jax.report.comparison import compare as several

  show = whole(args, "show")
  print(single(configs[0], folders[0], show) if len(folders) == 1 else several(folders, configs, show))
  return 0


def serve(args: argparse.Namespace) -> int:
  """Serve a page on this machine that labels the images dropped on it, until Ctrl-C."""
  config = workdir_config(args)
  port, megabytes, megapixels = (whole(args, flag) for flag in ("port", "limit", "megapixels"))
  if port > 65535 or not megabytes or not megapixels:
    raise UserError("--port is at most 65535, --limit and --megapixels are above 0")
  prepare(config)
  from errseg_jax.serve.server import serve as run
  from errseg_jax.serve.uploads import Limits

  run(config, workdir(args), args.host, port, Limits(megabytes, megapixels))
  return 0


def label_issues(args: argparse.Namespace) -> int:
  """Rank images and regions whose annotation the network contradicts: CSV, JSON and a page of crops."""
  config = workdir_config(args)
  top = whole(args, "top")
  prepare(config)
  from errseg_jax.label_issues import label_issues as run

  out = pathlib.Path(args.out) if args.out else workdir(args) / "label_issues"
  split = args.split or config.splits.train
  print(run(config, workdir(args), split, out, top=top, by=args.by or "max_probability"))
  return 0


def confusion(args: argparse.Namespace) -> int:
  """Count which classes a trained network takes for which, and find the groups that it confuses: JSON and a plot."""
  config = workdir_config(args)
  prepare(config)
  from errseg_jax.confusion import confusion as run

  run(config, workdir(args), args.split or "train", args.json)
  return 0


def compare(args: argparse.Namespace) -> int:
  """Config keys that differ between runs, and their scores side by side."""
  if args.overrides:
    raise UserError(f"errseg compare reads runs as they are: leave out {args.overrides[0]}")
  from errseg_jax.compare import compare as run

  run([pathlib.Path(folder) for folder in args.workdirs], args.classes, args.json)
  return 0


def tune(args: argparse.Namespace) -> int:
  """Fit weights of views and choose settings of the CRF, on unseen images; evaluate and predict then use them."""
  config = workdir_config(args)
  prepare(config)
  from errseg_jax.tune import tune as run

  print(run(config, workdir(args)))
  return 0


def ablate(args: argparse.Namespace) -> int:
  """Train and score the alternatives on the data at hand: ablation.json, tables, plots; a killed one goes on."""
  config = required_config(args)
  prepare(config, args.distributed)
  from errseg_jax import processes
  from errseg_jax.ablation.run import ablate as run
  from errseg_jax.train.loop import NotFinite, Stopped

  names = [name.strip() for name in args.rows.split(",") if name.strip()]
  try:
    failed = run(config, workdir(args), names, whole(args, "seeds"))
  except Stopped:
    print(f"stopped; the same command goes on from {args.workdir}", file=sys.stderr)
    return 143
  except NotFinite as error:
    failed = {"base": str(error)}
  if processes.first():
    for name, why in failed.items():
      print(f"errseg: {name}: {why}", file=sys.stderr)
    print(workdir(args) / "ablation.md")
  return 1 if failed else 0


def data_check(args: argparse.Namespace) -> int:
  """Read every image and label of a data set and list what is wrong with it."""
  config = required_config(args)
  from errseg_jax.prepare.check import check

  return check(config, args.split, args.json)


def data_stats(args: argparse.Namespace) -> int:
  """Classes, sizes and colours of a split, and the class weights that follow."""
  config = required_config(args)
  from errseg_jax.prepare.stats import stats

  stats(config, args.split, pathlib.Path(args.out) if args.out else None, args.json)
  return 0


def data_convert(args: argparse.Namespace) -> int:
  """A data set's samples in few large files, with checksums; goes on where an earlier call was killed."""
  config = required_config(args)
  required(args, ["--out=DIR"], "the folder for the shards")
  shards, workers = whole(args, "shards"), whole(args, "workers") if args.workers else os.cpu_count() or 1
  from errseg_jax.prepare.convert import convert as run

  run(config, args.split, args.to or "array_record", pathlib.Path(args.out), shards, workers)
  return 0


def data_extract(args: argparse.Namespace) -> int:
  """What a network says of a data set: class scores in files, or features for the branches to train from."""
  config = required_config(args) if args.config else workdir_config(args)
  stride = whole(args, "stride")
  required(args, ["--out=DIR"], "the folder for the scores")
  passes = whole(args, "passes") if args.passes else 0
  prepare(config, "off" if args.passes else args.distributed)  # a cache is written by one process
  if args.passes:
    if not args.config or args.workdir:
      raise UserError("--passes wants --config=FILE, of branches on a given network, and no --workdir")
    from errseg_jax.prepare.cache import cache

    print(cache(config, pathlib.Path(args.out), passes))
    return 0
  from errseg_jax.prepare.extract import extract as run

  run(config, None if args.config else workdir(args), args.split, pathlib.Path(args.out), stride)
  return 0


def whole(args: argparse.Namespace, flag: str) -> int:
  """The whole number of a flag."""
  text = getattr(args, flag)
  if not text.isdecimal():
    raise UserError(f"--{flag}={text} must be a whole number")
  return int(text)


def convert(args: argparse.Namespace) -> int:
  """Published weights of a known network: a workdir to start from, or a backbone's .npz."""
  words = ["--from=NAME", "--weights=FILE", "--out=DIR"]
  required(args, words, f"errseg convert {' '.join(words)}")
  from errseg_jax.config import default_config
  from errseg_jax.convert.command import run

  prepare(default_config())
  paths = pathlib.Path(args.weights), pathlib.Path(args.out)
  print(run(getattr(args, "from"), *paths, args.drop))
  return 0


def export(args: argparse.Namespace) -> int:
  """Write a trained network as programs of jax.export with weights and card, checked, to run without this package."""
  config = workdir_config(args)
  required(args, ["--out=DIR"], "the folder for the exported network")
  prepare(config)
  from errseg_jax.export.command import export as run

  print(run(config, workdir(args), pathlib.Path(args.out), args.sizes))
  return 0


def bench(args: argparse.Namespace) -> int:
  """What networks and operations cost, on the device at hand; of a trained run, time against mIoU."""
  from errseg_jax.assemble import known
  from errseg_jax.bench import command
  from errseg_jax.config import default_config
  from errseg_jax.config_flags import override

  what = known(args.what or "size", command.NAMES, "--what")
  if what in command.OF_NOTHING:
    if args.config or args.workdir or args.split:
      raise UserError(f"--what={what} is of no run: leave out --config, --workdir and --split")
    prepare(override(default_config(), args.overrides))
    command.of_nothing(what, args.size or "", args.json)
  elif what in command.OF_RUN:
    if args.config or args.size:
      raise UserError(
        f"--what={what} is of the run in --workdir and its own images: leave out --config and --size"
      )
    config = workdir_config(args)
    prepare(config)
    command.of_run(what, config, workdir(args), args.split or config.splits.val, args.json)
  else:
    if what == command.ALL and args.size:
      raise UserError("--what=all measures each at its own size: leave out --size")
    config = required_config(args)
    prepare(config)
    if what == command.ALL:
      command.everything(config, args.json)
    else:
      command.of_config(what, config, args.size or "", args.json)
  return 0


def plan(args: argparse.Namespace) -> int:
  """Memory, time and cost of a config's training on devices that one does not have."""
  config = required_config(args)
  required(args, ["--devices=NAME"], "v5e-64, h100x8, cpu, ...")
  try:
    price = float(args.price) if args.price else None
  except ValueError:
    raise UserError(f"--price={args.price!r} is not a number") from None
  prepare(config)
  from errseg_jax.planning.plan import plan as run

  run(config, args.devices, price, args.json)
  return 0


def submit(args: argparse.Namespace) -> int:
  """Predictions of a benchmark's test images as the archive that its server takes."""
  words = ["--to=NAME", "--predictions=DIR", "--images=DIR", "--out=FILE"]
  required(args, words, f"errseg submit {' '.join(words)}")
  from errseg_jax.assemble import known
  from errseg_jax.submit import SERVERS
  from errseg_jax.submit import submit as run

  server = SERVERS[known(args.to, SERVERS, "--to")]
  predictions, images, out = (pathlib.Path(p) for p in (args.predictions, args.images, args.out))
  listed = pathlib.Path(args.list) if args.list else None
  print(run(server, predictions, images, out, args.labels or "corrected", listed))
  return 0


def doctor(args: argparse.Namespace) -> int:
  """Versions, devices, optional parts, what is missing."""
  from errseg_jax.doctor import doctor as run

  return run()


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
  "train": train,
  "evaluate": evaluate,
  "predict": predict,
  "report": report,
  "serve": serve,
  "label-issues": label_issues,
  "compare": compare,
  "confusion": confusion,
  "tune": tune,
  "ablate": ablate,
  "data check": data_check,
  "data stats": data_stats,
  "data convert": data_convert,
  "data extract": data_extract,
  "convert": convert,
  "export": export,
  "bench": bench,
  "plan": plan,
  "submit": submit,
  "doctor": doctor,
}


def required(args: argparse.Namespace, flags: list[str], what: str) -> None:
  """Refuses a call without one of these flags, "--out=DIR" say; `what` they are or how to call it."""
  for flag in flags:
    if not getattr(args, flag[2:].partition("=")[0]):
      raise UserError(f"{flag} is needed: {what}")


def workdir(args: argparse.Namespace) -> pathlib.Path:
  """The folder of --workdir, which the command needs."""
  required(args, ["--workdir=DIR"], "the folder of the run")
  return pathlib.Path(args.workdir)


def required_config(args: argparse.Namespace) -> ConfigDict:
  """The config of --config with its overrides.

  A flag --config.segmenter.init=WORKDIR brings the architecture and preprocessing of that network along; a
  file that sets it describes the network itself.
  """
  from errseg_jax.config_flags import load

  required(args, ["--config=FILE"], "for example --config=configs/scenes_demo.py")
  init = [word.partition("=")[2] for word in args.overrides if word.startswith("--config.segmenter.init=")]
  if not init or not init[-1]:
    return load(args.config, args.overrides)
  from errseg_jax.train.workdir import load_config

  return load(args.config, args.overrides, load_config(pathlib.Path(init[-1])).segmenter)


def workdir_config(args: argparse.Namespace) -> ConfigDict:
  """The config that a workdir was trained with, with overrides of this call."""
  return config_of(workdir(args), args.overrides)


def config_of(folder: pathlib.Path, overrides: list[str]) -> ConfigDict:
  """The config of a workdir with overrides."""
  from errseg_jax.config_flags import override
  from errseg_jax.train.workdir import load_config

  return override(load_config(folder), overrides)


def prepare(config: ConfigDict, distributed: str = "off") -> None:
  """Logging, memory, compilation cache, the other processes and platform, before jax touches a device."""
  logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
  logging.getLogger("absl").setLevel(logging.ERROR)
  if not sys.stderr.isatty():
    logging.getLogger("errseg").setLevel(logging.INFO)
  keep_freed_memory()
  import jax

  from errseg_jax import processes
  from errseg_jax.sharding import select_platform

  jax.config.update("jax_compilation_cache_dir", os.environ.get("ERRSEG_CACHE", str(CACHE)))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
  if config.dtype == "float64":
    jax.config.update("jax_enable_x64", True)
  processes.start(distributed)
  select_platform(config.platform, config.num_devices)
  if not processes.first():  # what all would say, the first one says
    logging.getLogger("errseg").setLevel(logging.ERROR)
