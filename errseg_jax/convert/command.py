"""`errseg convert`: a file of published weights -> a workdir, or the .npz of a backbone."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from errseg_jax import assemble
from errseg_jax.config import default_config
from errseg_jax.convert.engine import convert, describe
from errseg_jax.convert.formats import Arrays, read_arrays
from errseg_jax.convert.networks import NETWORKS, Network
from errseg_jax.convert.sections import named, outputs
from errseg_jax.errors import UserError
from errseg_jax.models.rules import Rule, prefixed
from errseg_jax.train.backbone_weights import ABOUT, public_name
from errseg_jax.train.checkpoints import StageCheckpoints
from errseg_jax.train.given import PREPROCESSING
from errseg_jax.train.workdir import claim

SIZE = 64  # pixels; any size gives the same variables
DROPS = ("", "head", "class0")
"""What may be left out: nothing; the head, so that the backbone alone is kept; the classifier's first class."""


def run(name: str, weights: pathlib.Path, out: pathlib.Path, drop: str) -> str:
  """Converts a file.

  Args:
    name: a key of NETWORKS.
    weights: the published file.
    out: a workdir to make; for a backbone alone, an .npz.
    drop: a key of DROPS.

  Returns:
    One line that says what was written.

  Raises:
    UserError: an unknown name, a file that is damaged or not of that network, or an `out` that exists.
  """
  network = NETWORKS[assemble.known(name, NETWORKS, "--from")]
  assemble.known(drop, DROPS, "--drop")
  whole = network.head is not None and drop != "head"
  check_out(out, whole)
  arrays = read_arrays(weights)
  try:
    config = resolved_config(network, arrays, whole)
    variables = converted_variables(network, arrays, config, str(weights), whole)
    if drop == "class0":
      without_first_class(config, variables)
  except UserError as error:
    raise UserError(f"{error}; {likely(name, arrays)}") from None
  except KeyError as error:
    raise UserError(
      f"{weights} is no {name}: it has no {error.args[0]!r}. It holds {describe(arrays)}; {likely(name, arrays)}"
    ) from None
  (write_workdir if whole else write_backbone)(out, config, variables)
  return summary(out, config, variables, whole)


def check_out(out: pathlib.Path, whole: bool) -> None:
  """Refuses to overwrite, and a folder where a file is written.

  Raises:
    UserError: see above.
  """
  try:
    exists = out.exists()
  except OSError as error:
    raise UserError(f"--out={out} cannot be made ({error.strerror}); name another") from None
  if exists:
    raise UserError(f"--out={out} exists: name another, or remove it")
  if whole == (out.suffix == ".npz"):
    kind = (
      "a network with its head: name a folder" if whole else "a backbone alone: name a file, --out=NAME.npz"
    )
    raise UserError(f"--out={out}: what is written is {kind}")


def resolved_config(network: Network, arrays: Arrays, whole: bool) -> ConfigDict:
  """The config of a run that ended with these weights.

  Raises:
    KeyError: an array that tells the size of the network is not there.
  """
  config = default_config()
  config.segmenter.backbone = network.backbone(arrays)
  if whole:
    assert network.head is not None
    config.segmenter.head = network.head(arrays)
    # Where the images are is not known here: --config.data.root=DIR says it.
    config.data = {
      "name": "folders",
      "root": "",
      "num_classes": num_classes(network, arrays),
      "class_names": (),
    }
  for key in PREPROCESSING:
    config.segmenter[key] = getattr(network.preprocessing, key)
  config.order = ("semantic",)
  config.stages.semantic.steps = 1  # of training here: a checkpoint is at some step
  return assemble.with_defaults(config)


def num_classes(network: Network, arrays: Arrays) -> int:
  """C, from the classifier's bias.

  Raises:
    UserError: one class, for which a network has a sigmoid.
  """
  count = outputs(arrays, named(arrays, network.classifier))
  if count == 1:
    raise UserError("it has one class and a sigmoid; only networks of two classes or more are converted")
  return count


def without_first_class(config: ConfigDict, variables: dict[str, Any]) -> None:
  """Takes the first class, which stands for what is not labelled, out of the classifiers.

  Raises:
    UserError: there is no head, or too few classes.
  """
  if "head" not in variables["params"] or config.data.num_classes < 3:
    raise UserError("--drop=class0 needs a network with its head and three classes or more")
  flat = traverse_util.flatten_dict(variables["params"]["head"], sep="/")
  for path, array in flat.items():
    if f"/{path}".rpartition("/conv/")[0].endswith("/classifier"):
      flat[path] = array[..., 1:]
  variables["params"]["head"] = traverse_util.unflatten_dict(flat, sep="/")
  config.data.num_classes -= 1


def rules_of(network: Network, config: ConfigDict) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
  """(rules of the backbone, rules of the head), with paths below the segmenter."""
  backbone = network.backbone_rules(config.segmenter.backbone.to_dict())
  return prefixed(backbone, ours="backbone"), prefixed(network.head_rules, ours="head")


def converted_variables(
  network: Network, arrays: Arrays, config: ConfigDict, source: str, whole: bool
) -> dict[str, Any]:
  """{"params": {"backbone", "head"}, "batch_stats": {same}}; without "head" where it is left out.

  Raises:
    UserError: the arrays are not those of the network.
  """
  like = shapes(config, num_classes(network, arrays) if whole else 0)
  backbone, head = rules_of(network, config)
  if whole:
    return convert((*backbone, *head), arrays, like, source, network.ignore)
  return convert(backbone, arrays, like, source, (*network.ignore, *(rule.pattern for rule in head)))


def shapes(config: ConfigDict, classes: int) -> dict[str, Any]:
  """{"params": {"backbone", "head"}, "batch_stats": {same}} of a config's segmenter, without computing anything.

  Args:
    config: with a segmenter section.
    classes: C; 0 for the backbone alone.
  """
  segmenter = assemble.segmenter(config, classes or 2)
  key, image = jax.random.key(0), jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
  if classes:
    return dict(jax.eval_shape(segmenter.init, key, image))
  alone = jax.eval_shape(lambda x: segmenter.backbone.init(key, x, False), image)
  return {kind: {"backbone": tree} for kind, tree in alone.items()}


def likely(name: str, arrays: Arrays) -> str:
  """Which known network the names of a file speak for."""
  scores = {other: overlap(network, arrays) for other, network in NETWORKS.items()}
  best = max(scores, key=lambda other: scores[other])
  if scores[best] < 0.5:
    return "its names are those of no known network"
  if best == name or scores[best] == scores[name]:
    return f"its names are those of {name}: the file is cut short, or of another variant"
  return f"by its names it looks like --from={best}"


def overlap(network: Network, arrays: Arrays) -> float:
  """Share of names and rules, 0..1, that find each other."""
  try:
    config = resolved_config(network, arrays, network.head is not None)
  except (KeyError, UserError):
    return 0.0
  rules = [rule for part in rules_of(network, config) for rule in part]
  names = [name for name in arrays if not any(re.fullmatch(p, name) for p in network.ignore)]
  matched = {name: [r for r in rules if r.path(name)] for name in names}
  placed = sum(bool(found) for found in matched.values())
  used = len({rule for found in matched.values() for rule in found})
  return (placed + used) / max(len(names) + len(rules), 1)


def write_workdir(out: pathlib.Path, config: ConfigDict, variables: dict[str, Any]) -> None:
  """A workdir that `segmenter.init` and `errseg evaluate` take."""
  steps = config.stages.semantic.steps
  grouped = {kind: {"segmenter": tree} for kind, tree in variables.items()}
  with made_whole(out) as workdir:
    claim(workdir, config)
    checkpoints = StageCheckpoints(workdir, "semantic", steps, config.train.select)
    checkpoints.save_result(steps, {"params": {}, "batch_stats": {}} | grouped)
    checkpoints.wait()
    checkpoints.close()


def write_backbone(out: pathlib.Path, config: ConfigDict, variables: dict[str, Any]) -> None:
  """An .npz that `segmenter.backbone_weights` takes."""
  section = config.segmenter.to_dict()
  about = json.dumps({key: section[key] for key in ("backbone", *PREPROCESSING)})
  flat = traverse_util.flatten_dict({kind: tree["backbone"] for kind, tree in variables.items()}, sep="/")
  arrays = {public_name(path): array for path, array in flat.items()}
  with made_whole(out) as path:
    np.savez(path, allow_pickle=False, **arrays, **{ABOUT: np.array(about)})


@contextlib.contextmanager
def made_whole(out: pathlib.Path) -> Iterator[pathlib.Path]:
  """A path beside `out` that gets its name at the end, so `out` is whole or not there.

  Raises:
    UserError: nothing can be written there.
  """
  try:
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    folder = tempfile.TemporaryDirectory(prefix=".converting-", dir=out.absolute().parent)
  except OSError as error:
    raise UserError(f"--out={out} cannot be made ({error.strerror}); name another") from None
  with folder as name:
    yield pathlib.Path(name) / out.name
    os.replace(pathlib.Path(name) / out.name, out)


def summary(out: pathlib.Path, config: ConfigDict, variables: dict[str, Any], whole: bool) -> str:
  """What was written, and how to use it."""
  parts = {name: sum(a.size for a in jax.tree.leaves(tree)) for name, tree in variables["params"].items()}
  listed = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in parts.items())
  if whole:
    use = f"{config.data.num_classes} classes; use it by --config.segmenter.init={out}"
  else:
    use = f"use it by --config.segmenter.backbone_weights={out}"
  return f"{out}: {listed} parameters; {use}"
