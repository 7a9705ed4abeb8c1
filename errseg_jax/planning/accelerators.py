"""Accelerators by their makers' figures."""

from __future__ import annotations

import dataclasses
import re

from errseg_jax.errors import UserError

GB = 10**9
TERA = 10**12


@dataclasses.dataclass(frozen=True)
class Accelerator:
  """One device as jax counts them, at its peak.

  Attributes:
    title: for people.
    memory: bytes.
    flops: floating-point operations per second of matrix products, by compute type: dense; of float32 as jax does
      them by default, TF32 on GPUs and bfloat16 passes on TPUs.
    bandwidth: bytes per second of its memory.
    link: bytes per second that it sends to the others of its host or slice.
    per_host: devices of a host.
    cores: of a device, where the maker's names count cores (v4-8 is four devices).
    topology: of one host of a TPU, as libtpu names it; "" of others.
  """

  title: str
  memory: float
  flops: dict[str, float]
  bandwidth: float
  link: float
  per_host: int
  cores: int = 1
  topology: str = ""


def _gpu(title: str, memory: float, half: float, single: float, bandwidth: float, link: float) -> Accelerator:
  rates = {"bfloat16": half * TERA, "float32": single * TERA}
  return Accelerator(title, memory * GB, rates, bandwidth * GB, link * GB, per_host=8)


def _tpu(
  title: str, memory: float, half: float, bandwidth: float, link: float, topology: str, cores: int = 1
) -> Accelerator:
  rates = {"bfloat16": half * TERA, "float32": half * TERA}
  return Accelerator(title, memory * GB, rates, bandwidth * GB, link * GB, 4, cores, topology)


ACCELERATORS = {
  "v4": _tpu("TPU v4", 34.4, 275, 1228, 300, "v4:2x2x1", cores=2),
  "v5e": _tpu("TPU v5e", 17.2, 197, 819, 200, "v5e:2x2"),
  "v5p": _tpu("TPU v5p", 102.0, 459, 2765, 600, "v5p:2x2x1", cores=2),
  "v6e": _tpu("TPU v6e", 34.4, 918, 1640, 400, "v6e:2x2"),
  "a100": _gpu("NVIDIA A100 80 GB", 80, 312, 156, 2039, 300),
  "h100": _gpu("NVIDIA H100 SXM", 80, 989, 494, 3350, 450),
  "h200": _gpu("NVIDIA H200", 141, 989, 494, 4800, 450),
  "l4": _gpu("NVIDIA L4", 24, 121, 60, 300, 32),
  "l40s": _gpu("NVIDIA L40S", 48, 362, 183, 864, 32),
}


def parse(text: str) -> tuple[str, Accelerator | None, int]:
  """(name, accelerator, devices) of "v5e-64", "v4-8" (eight cores: four devices), "h100x8", "h100"; "cpu" has None.

  Raises:
    UserError: unknown, or of no device.
  """
  match = re.fullmatch(r"([a-z][a-z0-9]*?)(?:[-x](\d+))?", text.lower())
  name = match[1] if match else ""
  if match is None or name not in (*ACCELERATORS, "cpu"):
    raise UserError(
      f"--devices={text!r} is unknown; known are {', '.join(ACCELERATORS)} and cpu, with a number: v5e-64, h100x8"
    )
  found, number = ACCELERATORS.get(name), int(match[2] or 1)
  cores = found.cores if found is not None and match[2] else 1
  if number < 1 or number % cores:
    raise UserError(
      f"--devices={text!r}: {name} counts cores, {cores} for each device"
      if cores > 1
      else f"--devices={text!r}: no device"
    )
  return name, found, number // cores
