"""How long a trained network takes, part by part, on the device at hand."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import statistics
import time
from typing import Any

import jax

from errseg_jax.inference.evaluator import Evaluator
from errseg_jax.models.error_aware import ErrorAware, infer

ROUNDS = 5


def hardware() -> dict[str, Any]:
  """What the scores were computed on."""
  device = jax.local_devices()[0]
  return {"platform": device.platform, "device": device.device_kind, "jax": jax.__version__}


def versions() -> dict[str, str]:
  """Of Python and of the packages that scores depend on."""
  installed = (
    "errseg-jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "grain",
    "numpy",
    "opencv-python-headless",
    "pillow",
  )
  return {"python": platform.python_version()} | {
    name: importlib.metadata.version(name) for name in installed
  }


def speed(
  model: ErrorAware, variables: Any, evaluator: Evaluator, source: Any, branches: tuple[str, ...]
) -> dict[str, Any]:
  """Milliseconds per image of the semantic network, and what each part adds, by the median of ROUNDS batches.

  Returns:
    {"semantic_ms", "image_size"}, and "guidance_ms", "subnets_ms", "error_ms", "detail_ms" of the parts there are.
    With prior "detail" the error branch runs the detail branch too: its own is what it adds to that.
  """
  batch, _ = next(evaluator.batches(source))
  runs: dict[str, tuple[ErrorAware, tuple[str, ...]]] = {"semantic": (model, ())}
  runs |= {name: (model, (name,)) for name in ("error", "detail") if name in branches}
  if model.early_exit is not None:  # its fine network asks the attention where to go
    runs["early_exit"] = (model, branches)
  if model.subnets is not None:
    runs["guided"] = (model.clone(subnets=None), ())
  if model.guidance is not None:
    runs["alone"] = (model.clone(subnets=None, guidance=None), ())
  ms = {name: milliseconds(*run, variables, batch.image) for name, run in runs.items()}
  added = {}
  if "alone" in ms:
    added["guidance"] = ms.get("guided", ms["semantic"]) - ms["alone"]
  if "guided" in ms:
    added["subnets"] = ms["semantic"] - ms["guided"]
  below = ms.get("detail", ms["semantic"]) if model.error.prior == "detail" else ms["semantic"]
  if "error" in ms:
    added["error"] = ms["error"] - below
  if "early_exit" in ms:
    added["detail"] = ms["early_exit"] - ms["error"]
  elif "detail" in ms:
    added["detail"] = ms["detail"] - ms["semantic"]
  return {
    "semantic_ms": ms["semantic"],
    **{f"{name}_ms": max(0.0, value) for name, value in added.items()},
    "image_size": list(batch.image.shape[1:3]),
  }


def milliseconds(model: ErrorAware, wanted: tuple[str, ...], variables: Any, image: jax.Array) -> float:
  """Of an image of the batch [B, H, W, 3], the median of ROUNDS runs."""
  run = jax.jit(functools.partial(infer, model, wanted=wanted))
  jax.block_until_ready(run(variables, image))
  times = []
  for _ in range(ROUNDS):
    start = time.perf_counter()
    jax.block_until_ready(run(variables, image))
    times.append(time.perf_counter() - start)
  return 1000 * statistics.median(times) / image.shape[0]
