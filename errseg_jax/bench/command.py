"""What `--what` names: how it is measured, what it is of, and how it is printed."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from errseg_jax.bench import (
  crf,
  early_exit,
  guided_filter,
  kernels,
  model,
  pytorch,
  reading,
  size,
  sparse,
  training,
  views,
)
from errseg_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Bench:
  """One kind of answer.

  Attributes:
    cost: measures; what it takes is said by where the bench stands below.
    table: of what `cost` found.
    image_size: "HEIGHTxWIDTH" without `--size`; "" where the images are given.
  """

  cost: Callable[..., dict[str, Any]]
  table: Callable[[dict[str, Any]], Table]
  image_size: str = ""


OF_CONFIG = {  # (config, height, width), or (config) for its own images
  "size": Bench(size.size, size.table, "513x513"),
  "model": Bench(model.model_cost, model.table, "513x513"),
  "train": Bench(training.training_cost, training.table),
  "data": Bench(reading.data_cost, reading.table),
}
OF_RUN = {  # (config, workdir, split)
  "early_exit": Bench(early_exit.early_exit, early_exit.table),
  "sparse": Bench(sparse.sparse, sparse.table),
  "views": Bench(views.views, views.table),
}
OF_NOTHING = {  # (height, width)
  "guided_filter": Bench(guided_filter.filter_cost, guided_filter.table, "513x513"),
  "crf": Bench(crf.crf_cost, crf.table, "513x513"),
  "kernels": Bench(kernels.kernel_cost, kernels.table, "1025x2049"),
  "pytorch": Bench(pytorch.compare, pytorch.table, "512x512"),
}
ALL = "all"
"""Everything that is of a config, and of nothing; PyTorch where it is installed."""

NAMES = (*OF_CONFIG, *OF_RUN, *OF_NOTHING, ALL)


def of_config(what: str, config: ConfigDict, image_size: str, as_json: bool) -> None:
  """Measures and prints what is of a config; `image_size` "" takes the default.

  Raises:
    UserError: a size for what has images of its own, or one of another form.
  """
  bench = OF_CONFIG[what]
  if image_size and not bench.image_size:
    raise UserError(f"--what={what} takes the config's own images: leave out --size")
  sizes = size.image_size(image_size or bench.image_size) if bench.image_size else ()
  show(bench.cost(config, *sizes), bench.table, as_json)


def of_run(what: str, config: ConfigDict, workdir: pathlib.Path, split: str, as_json: bool) -> None:
  """Measures and prints what is of a trained run; the curve of an early exit is drawn into its workdir too."""
  bench = OF_RUN[what]
  found = bench.cost(config, workdir, split)
  if what == "early_exit":
    (workdir / "early_exit.svg").write_text(early_exit.plot(found))
  show(found, bench.table, as_json)
  if what == "early_exit" and not as_json:
    print(workdir / "early_exit.svg")


def of_nothing(what: str, image_size: str, as_json: bool) -> None:
  """Measures and prints an operation, on random maps."""
  bench = OF_NOTHING[what]
  show(bench.cost(*size.image_size(image_size or bench.image_size)), bench.table, as_json)


def everything(config: ConfigDict, as_json: bool) -> None:
  """Everything of a config and of nothing, each at its default size; {what: what it found} as JSON."""
  found = {}
  for what, bench in {**OF_CONFIG, **OF_NOTHING}.items():
    sizes = size.image_size(bench.image_size) if bench.image_size else ()
    given = (config, *sizes) if what in OF_CONFIG else sizes
    try:
      found[what] = bench.cost(*given)
    except UserError as error:
      if what != "pytorch":
        raise
      found[what] = {"missing": str(error)}
      if not as_json:
        print(error)
      continue
    if not as_json:
      show(found[what], bench.table, False)
  if as_json:
    print(json.dumps(found, indent=1))


def show(found: dict[str, Any], table: Callable[[dict[str, Any]], Table], as_json: bool) -> None:
  """Prints what was found, as a table or as one JSON object."""
  if as_json:
    print(json.dumps(found, indent=1))
  else:
    Console().print(table(found))
