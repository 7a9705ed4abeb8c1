"""The page's HTML, and what its script knows of the run."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from errseg_jax.inference.network import TrainedNetwork
from errseg_jax.report.html import render
from errseg_jax.report.plots import error_ramp
from errseg_jax.serve.examples import Example
from errseg_jax.serve.uploads import FORMATS, Limits

_FOLDER = pathlib.Path(__file__).parent


def corrected_how(network: TrainedNetwork) -> str:
  """How the corrected labels come about, in words."""
  choice = network.choice
  if choice.fusion == "semantic":
    return "the held-out images chose to keep the network's labels"
  at = f" at t = {choice.threshold:g}" if choice.fusion == "mask" else ""
  return f"fusion “{choice.fusion}”{at}, chosen on {choice.on or 'held-out images'}"


def make_page(network: TrainedNetwork, name: str, examples: Sequence[Example], limits: Limits) -> str:
  """HTML.

  Args:
    network: a trained run.
    name: of the run.
    examples: images to try.
    limits: of an upload.
  """
  info, ramp = network.info, error_ramp()
  has_error, has_detail = ("error" in network.branches), ("detail" in network.branches)
  return render(
    "page.html.jinja",
    _FOLDER,
    name=name,
    info=info,
    examples=[example.name for example in examples],
    formats=", ".join("WebP" if f == "WEBP" else f for f in FORMATS),
    limits=limits,
    has_error=has_error,
    has_detail=has_detail,
    how=corrected_how(network),
    threshold=network.choice.threshold,
    data={
      "classes": info.classes,
      "palette": info.palette,
      "ramp": ramp.tolist(),
      "threshold": network.choice.threshold,
      "detail": has_detail,
      "score": "P(error)" if has_error else "1 − max probability",
      "megabytes": limits.megabytes,
    },
  )
