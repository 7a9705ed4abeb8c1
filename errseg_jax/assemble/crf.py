"""The CRF of a config."""

from __future__ import annotations

import math

from ml_collections import ConfigDict

from errseg_jax.assemble.sections import construct, known
from errseg_jax.errors import UserError
from errseg_jax.models.crf import COMPATIBILITIES, KERNELS, GuidanceCRF

LEAST_WHOLE = {"iterations": 0, "radius": 1, "subsample": 1}
LEAST = {"alpha": 0, "lam": 0, "bilateral": 0}
POSITIVE = ("eps", "sigma_xy", "sigma_rgb", "sigma_smooth")


def crf(config: ConfigDict) -> GuidanceCRF | None:
  """What the labels are smoothed by at rest; None without iterations.

  Raises:
    UserError: an unknown key, kernel or compatibility, or a number out of range.
  """
  out = construct(GuidanceCRF, config.crf, "crf")
  known(out.kernel, KERNELS, "config.crf.kernel")
  known(out.compatibility, COMPATIBILITIES, "config.crf.compatibility")
  for key, least in (LEAST_WHOLE | LEAST).items():
    if (value := getattr(out, key)) is None:
      continue
    if (key in LEAST_WHOLE and type(value) is not int) or not least <= value < math.inf:
      kind = "a whole number" if key in LEAST_WHOLE else "a number"
      raise UserError(f"config.crf.{key}={value} must be {kind} from {least} on")
  for key in POSITIVE:
    if not 0 < (value := getattr(out, key)) < math.inf:
      raise UserError(f"config.crf.{key}={value} must be a number above 0")
  if out.bilateral > 1:
    raise UserError(f"config.crf.bilateral={out.bilateral} is a share: at most 1")
  if out.iterations and config.tiles.size:
    raise UserError(
      "config.crf smooths whole images, and config.tiles asks for parts: set crf.iterations or tiles.size to 0"
    )
  return out if out.iterations else None
