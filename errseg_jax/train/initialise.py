"""Variables to start from: random, ImageNet weights for the backbone, or another run's network."""

from __future__ import annotations

import json
import pathlib
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from errseg_jax.errors import UserError
from errseg_jax.models.error_aware import ErrorAware
from errseg_jax.train.checkpoints import StageCheckpoints
from errseg_jax.train.stages import plan
from errseg_jax.train.state import Variables, merge, split
from errseg_jax.train.workdir import load_config

PREPROCESSING = ("mean", "std", "channels", "size_remainder")
CONVERTED = "segmenter.json"
"""Name in a converted .npz of the JSON that says which backbone and preprocessing its arrays are for."""
HOLDS_OUT = ("train", "choose", "choose_fraction", "error_source", "holdout_fraction")


IMAGE = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)  # any size gives the same variables
# A draw for each of some hundred arrays: compiled once, run once, and on a CPU three times as fast to compile so.
QUICK = {"xla_backend_optimization_level": 1}


def random_variables(model: ErrorAware, config: ConfigDict) -> Variables:
  """All groups at random; every weight that a run sets comes on top."""
  options = QUICK if jax.default_backend() == "cpu" else None
  init = jax.jit(lambda key: model.init(key, jnp.zeros(IMAGE.shape, IMAGE.dtype)), compiler_options=options)
  return {"batch_stats": {}, **init(jax.random.key(config.seed))}


def abstract_variables(model: ErrorAware) -> Variables:
  """Shapes and types of all groups, to restore into."""
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGE)
  return {
    "batch_stats": {},
    **jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), shapes),
  }


def initial_variables(model: ErrorAware, config: ConfigDict) -> Variables:
  """All groups at step 0 of a run; the given network or backbone weights in place."""
  variables = random_variables(model, config)
  if config.segmenter.init:
    check_given(config)
    given = segmenter_of(pathlib.Path(config.segmenter.init), split(variables, ("segmenter",))[0])
    return merge(variables, given)
  if config.segmenter.backbone_weights:
    like = {kind: tree.get("segmenter", {}).get("backbone", {}) for kind, tree in variables.items()}
    loaded = load_backbone(pathlib.Path(config.segmenter.backbone_weights), like, config)
    for kind, backbone in loaded.items():
      variables[kind]["segmenter"] = {**variables[kind]["segmenter"], "backbone": backbone}
  return variables


def check_given(config: ConfigDict) -> None:
  """A given network must see its images as it was trained to, and none that it was trained on as unseen.

  Raises:
    UserError: preprocessing differs from that of the other run, or the images that are held out do.
  """
  given = load_config(pathlib.Path(config.segmenter.init))
  pairs = [(f"segmenter.{key}", given.segmenter[key], config.segmenter[key]) for key in PREPROCESSING]
  if given.data == config.data and not config.splits.choose:
    pairs += [(f"splits.{key}", given.splits[key], config.splits[key]) for key in HOLDS_OUT]
  for key, there, here in pairs:
    if there != here:
      raise UserError(
        f"segmenter.init={config.segmenter.init} was trained with {key}={there!r}, this config has {here!r}: "
        "set the same"
      )


def segmenter_of(workdir: pathlib.Path, like: Variables) -> Variables:
  """The semantic network of another run.

  Raises:
    UserError: no run, not trained, or another architecture or class count.
  """
  config = load_config(workdir)
  if config.segmenter.init:
    return segmenter_of(pathlib.Path(config.segmenter.init), like)
  stages = {stage.name: stage for stage in plan(config)}
  steps = stages["semantic"].steps
  checkpoints = StageCheckpoints(workdir, "semantic", steps, config.train.select, create=False)
  try:
    return checkpoints.result(like)
  finally:
    checkpoints.close()


def load_backbone(path: pathlib.Path, like: Variables, config: ConfigDict) -> Variables:
  """Arrays of an .npz with our names, without the inner "conv": `fire2/squeeze1x1/kernel`, `stem/bn/mean`.

  Args:
    path: of the file; what `errseg convert` wrote also says which preprocessing its arrays expect.
    like: {"params": tree, "batch_stats": tree} of the backbone.
    config: of the run.

  Raises:
    UserError: no such file, not an .npz, names or shapes that are not those of the backbone, or preprocessing
      that is not the config's.
  """
  arrays = _read(path)
  converted = json.loads(str(arrays.pop(CONVERTED))) if CONVERTED in arrays else {}
  wanted = traverse_util.flatten_dict(like, sep="/")
  public = {public_name(name): name for name in wanted}
  missing, extra = sorted(public.keys() - arrays), sorted(arrays.keys() - public)
  wrong = [n for n in public.keys() & arrays.keys() if arrays[n].shape != wanted[public[n]].shape]
  if missing or extra or wrong:
    hint = f"; it is of config.segmenter.backbone = {converted['backbone']}" if converted else ""
    raise UserError(
      f"{path} does not fit the backbone: missing {missing[:8]}, extra {extra[:8]}, "
      f"other shape {sorted(wrong)[:8]}{hint}"
    )
  for key in PREPROCESSING if converted else ():
    there, here = converted[key], config.segmenter[key]
    if there != (list(here) if isinstance(here, tuple) else here):
      raise UserError(
        f"{path} was trained with segmenter.{key}={there}, this config has {here}: set the same"
      )
  values = {public[n]: jnp.asarray(a, wanted[public[n]].dtype) for n, a in arrays.items()}
  return traverse_util.unflatten_dict(values, sep="/")


def public_name(path: str) -> str:
  """`params/conv1/conv/kernel` -> `conv1/kernel`: parameters and statistics never share a name."""
  return path.split("/", 1)[1].replace("/conv/", "/")


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    with np.load(path, allow_pickle=False) as file:
      return {name: file[name] for name in file.files}
  except FileNotFoundError:
    raise UserError(f"segmenter.backbone_weights: {path} does not exist") from None
  except (ValueError, OSError, zipfile.BadZipFile, AttributeError):
    raise UserError(f"segmenter.backbone_weights: {path} is not a readable .npz of arrays") from None
