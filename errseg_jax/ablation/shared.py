"""Stages that two rows have in common are trained once: the later row takes the finished one's checkpoints."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Collection, Iterator
from typing import Any

from ml_collections import ConfigDict

from errseg_jax.train.stages import plan
from errseg_jax.train.workdir import FREE, claim, flat, load_config
from errseg_jax.train.writers import read_metrics

SECTIONS = {
  "guidance": ("guidance", "guidance_loss"),
  "subnets": ("subnets", "subnets_loss", "groups"),
  "error": ("error_branch", "error_loss"),
  "detail": ("detail_branch", "detail_loss"),
}
"""What a config says of a branch alone: nothing to the stages before that branch is trained."""


def decisive(config: ConfigDict, stages: Collection[str]) -> dict[str, Any]:
  """The keys of a config that decide what its first stages, `stages`, come to."""
  trained = {*stages, *(("error", "detail") if "cascade" in stages else ())}
  trained |= {"guidance"} if "guided" in stages else set()
  unused = [section for branch, sections in SECTIONS.items() if branch not in trained for section in sections]
  unused += [f"stages.{name}" for name in config.stages if name not in stages]
  # A detail stage is scored at the thresholds, and may learn by a calibrated P_ep; fusions come after training.
  unused += ["choose.fusions"] if "detail" in stages else ["choose"]
  unused += ["early_exit", "crf"]
  if not SECTIONS.keys() & {*stages} and config.splits.error_source != "holdout":
    unused += ["splits.error_source", "splits.folds", "splits.strength", "splits.holdout_fraction"]
  unused += ["order", "sparse", "views", "tiles", *FREE]
  values = flat(config).items()
  return {k: v for k, v in values if not any(k == u or k.startswith(u + ".") for u in unused)}


def in_common(config: ConfigDict, other: ConfigDict) -> list[str]:
  """Names of the first stages that come to the same in both."""
  names, others = ([stage.name for stage in plan(c)] for c in (config, other))
  for count in range(min(len(names), len(others)), 0, -1):
    first = names[:count]
    if first == others[:count] and decisive(config, first) == decisive(other, first):
      return first
  return []


def take(config: ConfigDict, folder: pathlib.Path) -> list[str]:
  """Makes `folder` a workdir that starts with the stages that a finished sibling has in common with it.

  Args:
    config: of the row, resolved.
    folder: of the row; one that exists is left as it is.

  Returns:
    The stages taken, which then need no training.
  """
  if folder.exists():
    return []
  found = {sibling: in_common(config, load_config(sibling)) for sibling in finished_siblings(folder)}
  source = max(found, key=lambda sibling: len(found[sibling]), default=None)
  if source is None or not found[source]:
    return []
  part = folder.with_name(f".{folder.name}.part")  # a copy cut short must not look like a workdir
  shutil.rmtree(part, ignore_errors=True)
  claim(part, config)
  for name in found[source]:
    shutil.copytree(source / "checkpoints" / name, part / "checkpoints" / name)
  rows = [row for row in read_metrics(source / "metrics.jsonl") if row["stage"] in found[source]]
  (part / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  os.replace(part, folder)
  return found[source]


def finished_siblings(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """The finished rows of the same seed, in order of name."""
  for path in sorted(folder.parent.glob("*/results.json")):
    yield path.parent
