"""Writes ablation.json, ablation.md and the plots, each whole or not at all."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from ml_collections import ConfigDict

from errseg_jax.ablation.plots import plots
from errseg_jax.ablation.summary import summarise
from errseg_jax.ablation.tables import markdown


def write(
  workdir: pathlib.Path,
  config: ConfigDict,
  names: Sequence[str],
  seeds: Iterable[int],
  failed: Mapping[str, str],
) -> None:
  """Tells what is finished so far; arguments as `summarise`."""
  summary = summarise(workdir, config, names, seeds, failed)
  replace(workdir / "ablation.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
  pictures = plots(summary, workdir)
  for name, svg in pictures.items():
    replace(workdir / "plots" / f"{name}.svg", svg)
  replace(
    workdir / "ablation.md", markdown(summary) + "".join(f"\n![{n}](plots/{n}.svg)\n" for n in pictures)
  )


def replace(path: pathlib.Path, text: str) -> None:
  """A reader sees the old file or the whole new one."""
  path.parent.mkdir(exist_ok=True)
  part = path.with_name(f"{path.name}.tmp")
  part.write_text(text, encoding="utf-8")
  os.replace(part, path)
