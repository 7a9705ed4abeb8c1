"""Variables to start from: random, ImageNet weights for the backbone, or another run's network."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from errseg_jax.models.error_aware import ErrorAware
from errseg_jax.train.backbone_weights import load_backbone
from errseg_jax.train.given import abstract_image, adapted, check_given, guidance_of, segmenter_of
from errseg_jax.train.state import Variables, merge, split

# A draw for each of some hundred arrays: compiled once, run once, and on a CPU three times as fast to compile so.
QUICK = {"xla_backend_optimization_level": 1}


def random_variables(model: ErrorAware, config: ConfigDict) -> Variables:
  """All groups at random; every weight that a run sets comes on top."""
  options = QUICK if jax.default_backend() == "cpu" else None
  image = abstract_image(model)
  init = jax.jit(lambda key: model.init(key, jnp.zeros(image.shape, image.dtype)), compiler_options=options)
  return {"batch_stats": {}, **init(jax.random.key(config.seed))}


def initial_variables(model: ErrorAware, config: ConfigDict) -> Variables:
  """All groups at step 0 of a run; the given network, with its guidance, or backbone weights in place."""
  variables = random_variables(model, config)
  if config.segmenter.adapter and not config.segmenter.init:
    return merge(variables, adapted(model.segmenter))
  if config.segmenter.init:
    check_given(config)
    workdir = pathlib.Path(config.segmenter.init)
    variables = merge(variables, segmenter_of(workdir, split(variables, ("segmenter",))[0]))
    if model.guidance is not None:
      variables = merge(variables, guidance_of(workdir, split(variables, ("guidance",))[0]))
    return variables
  if config.segmenter.backbone_weights:
    like = {kind: tree.get("segmenter", {}).get("backbone", {}) for kind, tree in variables.items()}
    loaded = load_backbone(pathlib.Path(config.segmenter.backbone_weights), like, config)
    for kind, backbone in loaded.items():
      variables[kind]["segmenter"] = {**variables[kind]["segmenter"], "backbone": backbone}
  return variables
