"""`errseg plan`: memory, time and cost of a config's stages on devices that one does not have."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from errseg_jax.bench.reading import one_by_one
from errseg_jax.bench.roofline import bandwidth, flop_rate
from errseg_jax.errors import UserError
from errseg_jax.planning.accelerators import GB, Accelerator, parse
from errseg_jax.planning.program import per_device, step_program, topology_device
from errseg_jax.train.trainer import Trainer

HOUR = 3600.0


def plan(
  config: ConfigDict, devices: str, price: float | None = None, as_json: bool = False
) -> dict[str, Any]:
  """Compiles each stage's step as one of the devices would run it, and prints what it comes to.

  Times are a roofline's: of arithmetic, memory and links the slowest, each at its peak. No network reaches that; a
  step takes 1.5 to 4 times as long (`errseg bench --what=train` tells the share that a device at hand reaches).

  Args:
    config: resolved.
    devices: "v5e-64", "h100x8", "cpu", ...
    price: of one device for an hour.
    as_json: print the result as one JSON object.

  Returns:
    {"devices", "count", "memory_GB", "compiled_for", "estimate", "images_per_core_s", "cores_per_host", "hours",
    "cost", "rows": [{"stage", "batch_size", "memory_GB", "fits", "steps_per_s", "bound", "epochs_per_hour", "hours"}]}.
    "estimate": the program was compiled for this machine's CPU, so its memory is not quite that of the device.
    "images_per_core_s": what one core of this machine reads and augments; "cores_per_host": how many like it each host
    needs to keep up; "hours" and "cost": of all stages, at best.

  Raises:
    UserError: unknown devices, a batch that they do not divide, a price below 0, or any mistake in the config or the
      data set.
  """
  name, accelerator, count = parse(devices)
  if price is not None and not 0 <= price < math.inf:
    raise UserError(f"--price={price} must be a number from 0 on")
  trainer = Trainer(per_device(config, count), pathlib.Path())
  if accelerator is None:
    accelerator = this_cpu(config.dtype)
  device = topology_device(accelerator.topology)
  rows, reading = [], {}
  for stage in trainer.stages:
    program = step_program(trainer, stage, device)
    images = sum(len(source) for source in trainer.sources_of(stage)) / len(trainer.sources_of(stage))
    rows.append(stage_row(stage, program, images, accelerator, count, config.dtype))
    if stage.source not in reading:
      reading[stage.source] = 1000 / sum(one_by_one(trainer, stage).values())
  hosts = math.ceil(count / accelerator.per_host)
  slowest = min(reading.values())
  hours = sum(row["hours"] for row in rows)
  result = {
    "devices": accelerator.title,
    "count": count,
    "memory_GB": accelerator.memory / GB,
    "compiled_for": accelerator.title if device is not None else "CPU",
    "estimate": device is None and name != "cpu",
    "images_per_core_s": slowest,
    "cores_per_host": max(row["images_per_s"] for row in rows) / hosts / slowest,
    "hours": hours,
    "cost": None if price is None else price * count * hours,
    "rows": rows,
  }
  if as_json:
    print(json.dumps(result))
  else:
    show(result, config.dtype, price)
  return result


def this_cpu(dtype: str) -> Accelerator:
  """The CPU at hand, at what it is measured to reach."""
  with open("/proc/meminfo") as file:
    memory = 1024 * int(next(line for line in file if line.startswith("MemTotal:")).split()[1])
  return Accelerator("this CPU", memory, {dtype: flop_rate(dtype)}, bandwidth(), math.inf, per_host=1)


def stage_row(
  stage: Any, program: dict[str, float], images: float, accelerator: Accelerator, count: int, dtype: str
) -> dict[str, Any]:
  """What a stage comes to; `program` as `step_program` tells, `images` of an epoch."""
  peak = accelerator.flops.get(dtype, accelerator.flops.get("float32", 0.0))
  seconds = {
    "arithmetic": program["flops"] / peak,
    "memory": program["bytes"] / accelerator.bandwidth,
    # Of a ring: each device sends what it has, and passes on what it gets, but for its own part.
    "links": 2 * program["sent"] * (count - 1) / count / accelerator.link,
  }
  bound = max(seconds, key=lambda key: seconds[key])
  steps = 1 / seconds[bound]
  per_second = steps * stage.batch_size * count
  return {
    "stage": stage.name,
    "batch_size": stage.batch_size * count,
    "memory_GB": program["bytes_held"] / GB,
    "fits": program["bytes_held"] < 0.9 * accelerator.memory,  # the rest is the runtime's
    "gflop": program["flops"] / GB,
    "gbyte": program["bytes"] / GB,
    "sent_MB": program["sent"] / 10**6 if count > 1 else 0.0,
    "bound": bound,
    "steps_per_s": steps,
    "images_per_s": per_second,
    "epochs_per_hour": per_second * HOUR / images,
    "hours": stage.steps / steps / HOUR,
  }


def show(result: dict[str, Any], dtype: str, price: float | None) -> None:
  """The result as a table, and what follows from it in words."""
  title = f"{result['count']} x {result['devices']}, {dtype}, at best"
  table, console = Table(title=title), Console(markup=False, emoji=False)
  columns = ("stage", "batch", "GB held", "bound by", "steps/s", "epochs/h", "hours")
  for column in columns:
    table.add_column(column, justify="left" if column in ("stage", "bound by") else "right")
  for row in result["rows"]:
    held = f"{row['memory_GB']:.2f}{'' if row['fits'] else ' !'}"
    speed = (f"{row['steps_per_s']:,.2f}", f"{row['epochs_per_hour']:,.1f}", f"{row['hours']:,.2f}")
    table.add_row(row["stage"], str(row["batch_size"]), held, row["bound"], *speed)
  console.print(table)
  kind = "an estimate: compiled for a CPU" if result["estimate"] else f"compiled for {result['compiled_for']}"
  console.print(f"memory of a device: {result['memory_GB']:.0f} GB; that of the steps is {kind}")
  for row in result["rows"]:
    if not row["fits"]:
      console.print(
        f"! {row['stage']} does not fit: more devices, a smaller stages.{row['stage']}.batch_size or "
        "transform.crop_size, dtype='bfloat16', train.remat=True"
      )
  console.print(
    f"one core of this machine reads {result['images_per_core_s']:,.0f} images/s: each host needs "
    f"{result['cores_per_host']:,.1f} such cores to keep up"
  )
  cost = "" if result["cost"] is None else f", {result['cost']:,.2f} at {price} for a device and hour"
  console.print(f"all stages: {result['hours']:,.2f} hours{cost}")
