"""Optimizers of a stage, over the parameters that the stage trains."""

from __future__ import annotations

from typing import Any

import jax
import optax
from flax import traverse_util
from ml_collections import ConfigDict

from errseg_jax.assemble import known
from errseg_jax.errors import UserError


def poly_schedule(learning_rate: float, steps: int, power: float, warmup_steps: int = 0) -> optax.Schedule:
  """learning_rate * (1 - step / steps)^power, after a linear warm-up."""
  poly = optax.polynomial_schedule(learning_rate, 0.0, power, steps - warmup_steps)
  if not warmup_steps:
    return poly
  warm = optax.linear_schedule(0.0, learning_rate, warmup_steps)
  return optax.join_schedules([warm, poly], [warmup_steps])


def decay_mask(params: Any) -> Any:
  """True for kernels; False for biases and normalisation, which weight decay leaves alone."""
  return jax.tree.map(lambda p: p.ndim > 1, params)


def prefix_mask(params: Any, prefix: str) -> Any:
  """True for the parameters whose path starts with `prefix` ("segmenter/backbone").

  Raises:
    UserError: none does.
  """
  flat = traverse_util.flatten_dict(params, sep="/")
  mask = {k: k == prefix or k.startswith(prefix + "/") for k in flat}
  if not any(mask.values()):
    raise UserError(f"optimizer.multipliers: no trained parameter is under {prefix!r}")
  return traverse_util.unflatten_dict(mask, sep="/")


def make_optimizer(config: ConfigDict, steps: int, params: Any) -> optax.GradientTransformation:
  """The optimizer of one stage.

  Args:
    config: the stage's `optimizer` section.
    steps: of the stage.
    params: the trained groups; only they get optimizer slots.
  """
  known(config.name, ("adam", "sgd"), "optimizer.name")
  decay = optax.add_decayed_weights(config.weight_decay, decay_mask)
  parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
  if config.name == "adam":
    parts += [optax.scale_by_adam(), decay]  # decoupled, AdamW
  else:
    parts += [decay, optax.trace(config.momentum)]  # coupled, as in the papers
  for prefix, factor in config.multipliers.items():
    parts.append(optax.masked(optax.scale(factor), prefix_mask(params, prefix)))
  schedule = poly_schedule(config.learning_rate, steps, config.power, config.warmup_steps)
  return optax.chain(*parts, optax.scale_by_learning_rate(schedule))
