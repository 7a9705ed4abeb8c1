"""What the fused loss and labels cost on the device at hand, against the same from full-size logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from errseg_jax.bench.roofline import bandwidth, temporary_bytes
from errseg_jax.bench.rounds import in_rounds
from errseg_jax.inference.choice import Choice, fused_probabilities
from errseg_jax.inference.network import to_prediction
from errseg_jax.inference.speed import hardware
from errseg_jax.kernels import DetailTerms, Terms, fused_labels, fused_sums
from errseg_jax.kernels.dispatch import PLATFORMS
from errseg_jax.losses import DetailLoss, ErrorLoss
from errseg_jax.models.resize import resize
from errseg_jax.structs import Coarse, Outputs

CLASSES = 19
STRIDE = 4
ROUNDS = 5  # of one run of each program
ERROR, DETAIL = ErrorLoss(), DetailLoss("soft", jaccard=2.0)
TERMS = Terms(rho=ERROR.rho, detail=DetailTerms("soft", jaccard=True))


def make_maps(height: int, width: int) -> tuple[Coarse, jax.Array]:
  """Random logits of 19 classes at a quarter of the resolution, corners on corners where the size has it, and labels.

  Args:
    height: of the image, 4 n or 4 n + 1.
    width: likewise.
  """
  corners = (height % STRIDE, width % STRIDE) == (1, 1)
  low = [(n - 1) // STRIDE + 1 if corners else -(-n // STRIDE) for n in (height, width)]
  rng = np.random.default_rng(0)

  def normal(*shape: int) -> jax.Array:
    return jnp.asarray(rng.normal(0, 2, shape), jnp.float32)

  label = rng.integers(0, CLASSES, (1, height, width)).astype(np.uint8)
  maps = (normal(1, *low, CLASSES), normal(1, *low, CLASSES), normal(1, *low))
  grid = (corners, corners, corners)
  coarse = Coarse(*maps, size=(height, width), align_corners=grid, trained=("error", "detail"))
  return coarse, jnp.asarray(label)


def full_size(coarse: Coarse) -> Outputs:
  """What the reference starts from."""
  given = (coarse.semantic, coarse.detail, coarse.error[..., None])
  semantic, detail, error = (
    resize(x, coarse.size, corners) for x, corners in zip(given, coarse.align_corners, strict=True)
  )
  return Outputs(semantic, error[..., 0], detail)


def loss_program(form: str) -> Callable[..., Any]:
  """(coarse, label) -> both losses added up, and their gradient by the detail and the error logits."""

  def loss(trained, coarse, label):
    coarse = dataclasses.replace(coarse, **trained)
    if form == "reference":
      outputs = full_size(coarse)
      return ERROR(outputs, label) + DETAIL(outputs, label)
    sums = fused_sums(dataclasses.replace(coarse, kernels=form), label, TERMS)
    assert sums is not None
    return sums.error_loss(ERROR.w1, ERROR.w2, ERROR.w3, ERROR.w3_min) + sums.detail_loss(DETAIL.jaccard)

  def run(coarse, label):
    trained = {"detail": coarse.detail, "error": coarse.error}
    return jax.value_and_grad(loss)(trained, coarse, label)

  return run


def labels_program(form: str) -> Callable[..., Any]:
  """(coarse, label) -> labels of the fusion "mask", and P_ep."""

  def run(coarse, label):
    choice = Choice().arrays()
    if form == "reference":
      outputs = full_size(coarse)
      return to_prediction(outputs, fused_probabilities(outputs, "mask", choice), choice)
    return fused_labels(dataclasses.replace(coarse, kernels=form), "mask", choice)

  return run


OPERATIONS = {"loss": loss_program, "labels": labels_program}


def least_bytes(operation: str, coarse: Coarse, label: jax.Array) -> int:
  """What any program has to read and write: each low-resolution map and each label once, a gradient or labels."""
  maps = (coarse.semantic, coarse.detail, coarse.error)
  read = sum(x.nbytes for x in maps)
  if operation == "loss":  # forward and backward read; the gradient of two maps is written
    return 2 * (read + label.nbytes) + coarse.detail.nbytes + coarse.error.nbytes
  return read + label.size * (3 + 4)


def forms() -> list[str]:
  """The forms that this device runs; the Pallas kernels on GPU and TPU."""
  return ["reference", "banded", *(["pallas"] if jax.default_backend() in PLATFORMS else [])]


def kernel_cost(height: int, width: int) -> dict[str, Any]:
  """Times and memory of each form of each operation, at batch 1.

  Returns:
    {"image_size", "hardware", "classes", "bytes_per_second", "rows": [{"operation", "form", "ms", "temporary_MB",
    "faster", "smaller", "least_MB", "share_of_byte_limit"}]}, medians over the rounds; "faster" and "smaller" than
    the reference. "least_MB": what has to be read and written; the byte limit is that at the speed of a copy.
  """
  coarse, label = make_maps(height, width)
  speed, rows = bandwidth(), []
  for operation, program in OPERATIONS.items():
    compiled = {form: jax.jit(program(form)).lower(coarse, label).compile() for form in forms()}
    seconds = in_rounds(compiled, ROUNDS, coarse, label)
    memory = {form: temporary_bytes(x) for form, x in compiled.items()}
    least = least_bytes(operation, coarse, label)
    for form, own in seconds.items():
      rows.append(
        {
          "operation": operation,
          "form": form,
          "ms": 1000 * float(np.median(own)),
          "temporary_MB": memory[form] / 1e6,
          "faster": float(np.median(seconds["reference"] / own)),
          "smaller": memory["reference"] / max(memory[form], 1),
          "least_MB": least / 1e6,
          "share_of_byte_limit": least / speed / float(np.median(own)),
        }
      )
  return {
    "image_size": [height, width],
    "hardware": hardware(),
    "classes": CLASSES,
    "bytes_per_second": speed,
    "rows": rows,
  }


def table(cost: dict[str, Any]) -> Table:
  """The cost as a table."""
  height, width = cost["image_size"]
  device, speed = cost["hardware"]["device"], cost["bytes_per_second"] / 1e9
  title = f"{CLASSES} classes from a quarter of {height}x{width} pixels, {device}, {speed:,.0f} GB/s"
  out = Table(title=title)
  columns = ("operation", "form", "ms", "faster", "temporary MB", "smaller", "least MB", "% of byte limit")
  for column in columns:
    out.add_column(column, justify="left" if column in ("operation", "form") else "right")
  for row in cost["rows"]:
    numbers = (f"{row['ms']:,.2f}", f"{row['faster']:.1f}", f"{row['temporary_MB']:,.1f}")
    more = (f"{row['smaller']:.1f}", f"{row['least_MB']:.1f}", f"{100 * row['share_of_byte_limit']:.1f}")
    out.add_row(row["operation"], row["form"], *numbers, *more)
  return out
