"""A device's part of a training step, compiled without running it."""

from __future__ import annotations

import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from errseg_jax.bench.roofline import program_costs
from errseg_jax.bench.training import more_inputs
from errseg_jax.errors import UserError
from errseg_jax.structs import Batch
from errseg_jax.train.given import abstract_variables
from errseg_jax.train.memory import step_bytes
from errseg_jax.train.optim import make_optimizer
from errseg_jax.train.stages import Stage
from errseg_jax.train.state import TrainState, split
from errseg_jax.train.step import make_step
from errseg_jax.train.trainer import Trainer

log = logging.getLogger("errseg")


def per_device(config: ConfigDict, devices: int) -> ConfigDict:
  """The config of one device's part of each batch.

  Raises:
    UserError: the devices do not divide a batch.
  """
  config = config.copy_and_resolve_references()
  config.num_devices = 1
  for name in config.order:
    size = config.stages[name].batch_size
    if size % devices:
      raise UserError(
        f"stages.{name}.batch_size={size} is not a multiple of {devices} devices: set a multiple"
      )
    config.stages[name].batch_size = size // devices
  return config


def step_program(trainer: Trainer, stage: Stage, device: Any = None) -> dict[str, float]:
  """{"bytes_held", "flops", "bytes", "sent"} of a step on one device.

  Args:
    trainer: of `per_device`.
    stage: one of its stages.
    device: of a topology to compile for; None: what jax runs on.

  "sent": bytes of gradients and of batch statistics that the devices sum up in a step.
  """
  config, model = trainer.config, trainer.model_of(stage)
  variables = abstract_variables(trainer.model)
  trained, frozen = split(variables, stage.groups)
  tx = make_optimizer(stage.optimizer, stage.steps, trained["params"])
  state = jax.eval_shape(functools.partial(TrainState.create, tx=tx, ema=stage.ema > 0), trained)
  step: Any = make_step(model, stage, trainer.losses[stage.name], tx, config.seed, config.train.remat)
  shape = (stage.batch_size, *config.transform.crop_size)
  pixels: Any = jax.ShapeDtypeStruct((*shape, model.image_channels), jnp.uint8)
  labels: Any = jax.ShapeDtypeStruct(shape, jnp.uint8)
  frozen = {**frozen, **more_inputs(trainer.losses[stage.name], model, trainer)}
  arguments = (state, frozen, Batch(image=pixels, label=labels))
  if device is not None:
    place = jax.sharding.SingleDeviceSharding(device)
    arguments = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), arguments)
  compiled = step.lower(*arguments).compile()
  gradients = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(trained["params"]))
  statistics = sum(
    leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(trained.get("batch_stats", {}))
  )
  sent = float(gradients + 2 * statistics)  # of a normalisation, two sums forward and two backward
  return {"bytes_held": float(step_bytes(compiled)), "sent": sent, **program_costs(compiled)}


def topology_device(name: str) -> Any:
  """A device of a TPU topology that libtpu compiles for; None where it is not installed."""
  if not name:
    return None
  from jax.experimental import topologies

  try:
    return topologies.get_topology_desc(platform="tpu", topology_name=name).devices[0]
  except (RuntimeError, ValueError, NotImplementedError) as error:
    log.info("not compiled for %s: %s", name, str(error).splitlines()[0])
    return None
