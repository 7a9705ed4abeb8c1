"""What this device can do at best, measured in the same run: products of matrices and reading and writing memory."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from errseg_jax.bench.rounds import in_rounds

COPIED = 2**26  # numbers that are copied to see how fast memory is
SIDE = {"cpu": 2048}  # of the square matrices that are multiplied; elsewhere MOST
MOST = 8192
ROUNDS = 5


def bandwidth() -> float:
  """Bytes per second of reading and writing large arrays."""
  x = jnp.zeros(COPIED, jnp.float32)
  seconds = in_rounds({"copy": jax.jit(lambda x: x + 1)}, ROUNDS, x)["copy"]
  return 2 * x.nbytes / float(np.min(seconds))


def flop_rate(dtype: str) -> float:
  """Floating-point operations per second of a product of large matrices in a compute type, as it is by default."""
  side = SIDE.get(jax.default_backend(), MOST)
  x = jnp.ones((side, side), dtype)
  seconds = in_rounds({"product": jax.jit(lambda x: x @ x)}, ROUNDS, x)["product"]
  return 2 * side**3 / float(np.min(seconds))


def program_costs(compiled: Any) -> dict[str, float]:
  """{"flops", "bytes"} of one run of a compiled program, as XLA counts them.

  Bytes are those between its fused parts, many of which a cache answers. A count that the platform does not give is
  0, and so is what runs inside a Pallas kernel.
  """
  found = compiled.cost_analysis() or {}
  return {"flops": float(found.get("flops", 0.0)), "bytes": float(found.get("bytes accessed", 0.0))}


def temporary_bytes(compiled: Any) -> int:
  """What a program needs beside its arguments and results."""
  return int(compiled.memory_analysis().temp_size_in_bytes)
