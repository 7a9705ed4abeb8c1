"""Weights that a backbone starts from: an .npz with our names, or the backbone of another run."""

from __future__ import annotations

import json
import pathlib
import zipfile
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from errseg_jax.errors import UserError
from errseg_jax.train.given import PREPROCESSING, backbone_of
from errseg_jax.train.state import Variables
from errseg_jax.train.workdir import load_config

ABOUT = "segmenter.json"
"""Name in a converted .npz of the JSON that says which backbone and preprocessing its arrays are for."""

Arrays = dict[str, np.ndarray]


def load_backbone(path: pathlib.Path, like: Variables, config: ConfigDict) -> Variables:
  """The published or trained arrays of a backbone.

  Args:
    path: an .npz with our names, without the inner "conv" (`fire2/squeeze1x1/kernel`, `stem/bn/mean`), or the
      workdir of another run. What `errseg convert` or a run wrote also says which preprocessing its arrays expect.
    like: {"params": tree, "batch_stats": tree} of the backbone.
    config: of the run.

  Raises:
    UserError: no such file or run, not an .npz, names or shapes that are not those of the backbone, or
      preprocessing that is not the config's.
  """
  arrays, about = _of_run(path) if path.is_dir() else _of_file(path)
  wanted = traverse_util.flatten_dict(like, sep="/")
  public = {public_name(name): name for name in wanted}
  missing, extra = sorted(public.keys() - arrays), sorted(arrays.keys() - public)
  wrong = [n for n in public.keys() & arrays.keys() if arrays[n].shape != wanted[public[n]].shape]
  if missing or extra or wrong:
    hint = f"; it is of config.segmenter.backbone = {about['backbone']}" if about else ""
    raise UserError(
      f"{path} does not fit the backbone: missing {missing[:8]}, extra {extra[:8]}, "
      f"other shape {sorted(wrong)[:8]}{hint}"
    )
  here = json.loads(config.segmenter.to_json())
  for key in PREPROCESSING if about else ():
    if about[key] != here[key]:
      raise UserError(
        f"{path} was trained with segmenter.{key}={about[key]}, this config has {here[key]}: set the same"
      )
  values = {public[n]: jnp.asarray(a, wanted[public[n]].dtype) for n, a in arrays.items()}
  return traverse_util.unflatten_dict(values, sep="/")


def public_name(path: str) -> str:
  """`params/conv1/conv/kernel` -> `conv1/kernel`: parameters and statistics never share a name."""
  return path.split("/", 1)[1].replace("/conv/", "/")


def _of_run(workdir: pathlib.Path) -> tuple[Arrays, dict[str, Any]]:
  """({public name: array}, segmenter section) of another run."""
  flat = traverse_util.flatten_dict(backbone_of(workdir), sep="/")
  about = json.loads(load_config(workdir).segmenter.to_json())
  return {public_name(name): np.asarray(array) for name, array in flat.items()}, about


def _of_file(path: pathlib.Path) -> tuple[Arrays, dict[str, Any]]:
  """({public name: array}, what the file says of itself or {}) of an .npz."""
  try:
    with np.load(path, allow_pickle=False) as file:
      arrays = {name: file[name] for name in file.files}
    about = json.loads(str(arrays.pop(ABOUT))) if ABOUT in arrays else {}
  except FileNotFoundError:
    raise UserError(f"segmenter.backbone_weights: {path} does not exist") from None
  except (ValueError, OSError, EOFError, TypeError, KeyError, zipfile.BadZipFile, AttributeError):
    raise UserError(f"segmenter.backbone_weights: {path} is not a readable .npz of arrays") from None
  if not all(isinstance(array, np.ndarray) for array in arrays.values()):
    raise UserError(
      f"segmenter.backbone_weights: {path} is a zip of other things than arrays; "
      "published weights go through `errseg convert`"
    )
  if about and not {"backbone", *PREPROCESSING} <= about.keys():
    raise UserError(f"segmenter.backbone_weights: {path} was written by another version: convert it again")
  return arrays, about
