"""What is chosen after training: calibration, fusion, threshold."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from errseg_jax.errors import UserError
from errseg_jax.metrics.calibration import Calibration, calibrated
from errseg_jax.models.error_branch import unweighted
from errseg_jax.models.fusion import BLIND, detail_share, fuse
from errseg_jax.structs import Outputs


@dataclasses.dataclass(frozen=True)
class Choice:
  """How logits become an error probability and fused labels; the content of choice.json.

  Attributes:
    fusion: one of models.fusion.CANDIDATES.
    threshold: t of fusion "mask", on calibrated P_ep; also the mask that reports start with.
    scale: of `metrics.calibration.Calibration`, as the next two.
    offset: see scale.
    knots: see scale.
    temperature: of the frozen network's softmax, for the error score "temperature".
    unweight: share of the detail loss's class weights that is taken back out of P_db before it labels pixels, 0..1.
    gate: weights of fusion "gate", over the raw error logit's features; () without.
    on: the images that it was chosen on, in words.
    candidates: mIoU of each candidate on them.
    standard_errors: of each candidate's distance to the best one.
    calibration: ECE of P_ep before and after, percent, on them.
    halves: where the reported images are the only unseen ones: the choice for their first half, made on the
      second, and the other way round; () otherwise.
  """

  fusion: str = "semantic"
  threshold: float = 0.5
  scale: float = 1.0
  offset: float = 0.0
  knots: tuple[tuple[float, float], ...] = ()
  temperature: float = 1.0
  unweight: float = 0.0
  gate: tuple[float, ...] = ()
  on: str = ""
  candidates: dict[str, float | None] = dataclasses.field(default_factory=dict)
  standard_errors: dict[str, float] = dataclasses.field(default_factory=dict)
  calibration: dict[str, float | None] = dataclasses.field(default_factory=dict)
  halves: tuple[Choice, ...] = ()

  def arrays(self) -> dict[str, Float[Array, "..."]]:
    """The numbers, as arguments of a jitted function: another choice does not recompile it."""
    return {
      "threshold": jnp.float32(self.threshold),
      **Calibration(self.scale, self.offset, self.knots).arrays(),
      "temperature": jnp.float32(self.temperature),
      "unweight": jnp.float32(self.unweight),
      "gate": jnp.array(self.gate or (0.0,) * 6, jnp.float32),
    }

  def scores(self) -> dict[str, float]:
    """On the images that it was chosen on, percent: mIoU of what was chosen and of the frozen labels, ECE of P_ep."""
    name = f"mask@{self.threshold:g}" if self.fusion == "mask" else self.fusion
    found = {
      "mIoU": self.candidates.get(name),
      "network_mIoU": self.candidates.get("semantic"),
      "ECE": self.calibration.get("after"),
    }
    return {key: value for key, value in found.items() if value is not None}

  def save(self, workdir: pathlib.Path) -> None:
    """Writes choice.json, whole or not at all."""
    path = pathlib.Path(workdir) / "choice.json"
    part = path.with_suffix(".tmp")
    part.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")
    os.replace(part, path)

  @classmethod
  def from_fields(cls, fields: dict) -> Choice:
    """From what `dataclasses.asdict` and JSON made of a choice."""
    halves = tuple(cls.from_fields(half) for half in fields["halves"])
    knots = tuple((float(x), float(y)) for x, y in fields["knots"])
    return cls(**{**fields, "knots": knots, "gate": tuple(fields["gate"]), "halves": halves})

  @classmethod
  def load(cls, workdir: pathlib.Path) -> Choice:
    """Reads choice.json.

    Raises:
      UserError: it is missing or damaged.
    """
    path = pathlib.Path(workdir) / "choice.json"
    try:
      return cls.from_fields(json.loads(path.read_text()))
    except FileNotFoundError:
      raise UserError(f"{path} is missing: `errseg train` with this workdir has not finished") from None
    except (ValueError, TypeError, KeyError):
      raise UserError(f"{path} is damaged: remove it and run `errseg train` again") from None


def rebalanced(
  outputs: Outputs, weights: tuple[float, ...], choice: dict[str, Float[Array, "..."]]
) -> Outputs:
  """Outputs with the detail logits that label pixels under a choice.

  Args:
    outputs: of a forward pass.
    weights: class weights of the detail branch's loss; () = none.
    choice: arrays of a Choice.
  """
  if outputs.detail is None:
    return outputs
  return dataclasses.replace(outputs, detail=unweighted(outputs.detail, weights, choice["unweight"]))


def fused_probabilities(
  outputs: Outputs, fusion: str, choice: dict[str, Float[Array, "..."]]
) -> Float[Array, "B H W C"]:
  """P_f [B, H, W, C] of `rebalanced` outputs under a choice."""
  if fusion == "semantic" or outputs.detail is None:
    return jax.nn.softmax(outputs.semantic)
  if fusion == "refined":
    return jax.nn.softmax(outputs.refined)
  error = outputs.error if fusion in ("gate", *BLIND) else calibrated(outputs.error, choice)
  share = detail_share(outputs.semantic, outputs.detail, error, fusion, choice["threshold"], choice["gate"])
  return fuse(outputs.semantic, outputs.detail, share)
