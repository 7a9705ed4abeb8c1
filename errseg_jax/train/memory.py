"""What a training step needs of the device's memory, known before it runs."""

from __future__ import annotations

import logging
from typing import Any

import jax
import numpy as np

from errseg_jax.errors import UserError
from errseg_jax.train.stages import Stage

log = logging.getLogger("errseg")
GIGABYTE = 1 << 30


def step_bytes(compiled: Any) -> int:
  """Bytes that a compiled program holds on each device while it runs, its arguments and results included.

  A donated argument's buffer is counted once.
  """
  parts = compiled.memory_analysis()
  held = parts.argument_size_in_bytes + parts.output_size_in_bytes - parts.alias_size_in_bytes
  return int(held + parts.temp_size_in_bytes)


def device_bytes(device: jax.Device) -> int | None:
  """Bytes that the process may use on a device; of a CPU its part of the memory that is free. None: not known."""
  if limit := (device.memory_stats() or {}).get("bytes_limit"):
    return int(limit)
  if device.platform != "cpu":
    return None
  try:
    with open("/proc/meminfo") as file:
      free = next(line for line in file if line.startswith("MemAvailable:"))
  except (OSError, StopIteration):  # no Linux
    return None
  return int(free.split()[1]) * 1024 // jax.local_device_count()


def compiled_step(step: Any, stage: Stage, *arguments: Any) -> Any:
  """The program of a jitted step for such arguments, after a look at what it needs.

  Raises:
    UserError: more than the device has.
  """
  compiled = step.lower(*arguments).compile()
  needed, device = (
    step_bytes(compiled),
    next(iter(jax.tree.leaves(arguments)[0].sharding.addressable_devices)),
  )
  log.info("stage %s: a step takes %s of memory on each device", stage.name, _size(needed))
  limit = device_bytes(device)
  if limit is not None and needed > limit:
    remat = "train.remat=True, " if device.platform != "cpu" else ""  # there XLA computes nothing again
    raise UserError(
      f"stage {stage.name}: a step needs {_size(needed)} of memory and {device.platform} {device.id} has "
      f"{_size(limit)}: lower stages.{stage.kind}.batch_size={stage.batch_size} or transform.crop_size, or set "
      f"{remat}dtype='bfloat16'"
    )
  return compiled


def _size(count: int) -> str:
  return f"{np.ceil(count / GIGABYTE * 100) / 100:.2f} GiB"
