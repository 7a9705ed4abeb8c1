"""card.json: what an exported network takes, gives and was made from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import jax
import jaxlib

import errseg_jax
from errseg_jax import assemble
from errseg_jax.inference.network import TrainedNetwork
from errseg_jax.structs import IGNORE

SCHEMA = 1
OUTPUTS = {
  "labels": ("uint8", "the corrected labels: those that the run chose"),
  "semantic_labels": ("uint8", "the frozen network's own"),
  "detail_labels": ("uint8", "the detail branch's own; the network's, of a run without"),
  "error_probability": (
    "float32",
    "calibrated P(the semantic label is wrong), 0..1; of a run without an error branch 1 - max probability",
  ),
}
"""Name -> (dtype, meaning) of each map [b, H, W]."""
AT_REST = ("views", "tiles", "crf")
"""Sections of the config that say how a network at rest sees an image; their content is inside the programs."""


def card(
  network: TrainedNetwork,
  programs: list[dict[str, Any]],
  weights: dict[str, Any],
  platforms: tuple[str, ...],
) -> dict[str, Any]:
  """The content of card.json, without "check".

  Args:
    network: that was written.
    programs: {"size": [H, W], "file", "bytes", "sha256"} of each.
    weights: the same of the file of weights, "arrays" in place of "size".
    platforms: that the programs were lowered for.
  """
  config, info = network.config, network.info
  choice = dataclasses.asdict(network.choice)
  return {
    "schema": SCHEMA,
    "classes": list(info.classes),
    "palette": [list(colour) for colour in info.palette],
    "ignore": IGNORE,
    "input": {
      "dtype": "uint8",
      "shape": ["b", "H", "W", 3],
      "channels": "RGB",
      "downscale": config.data.get("downscale", 1),
    },
    "padding": {
      "value": list(assemble.pad_value(config)),
      "where": "bottom and right",
      "multiple": config.loader.size_multiple,
      "remainder": config.segmenter.size_remainder,
    },
    "preprocessing": preprocessing(network),
    "outputs": {
      name: {"dtype": dtype, "shape": ["b", "H", "W"], "meaning": meaning}
      for name, (dtype, meaning) in OUTPUTS.items()
    },
    "programs": programs,
    "weights": weights,
    "platforms": list(platforms),
    "order": list(config.order),
    "choice": {
      name: choice[name] for name in ("fusion", "threshold", "scale", "offset", "knots", "temperature", "on")
    },
    "at_rest": {name: json.loads(config[name].to_json()) for name in AT_REST},
    "dtype": config.dtype,
    "config_sha256": hashlib.sha256(config.to_json(sort_keys=True).encode()).hexdigest(),
    "versions": {"errseg_jax": errseg_jax.__version__, "jax": jax.__version__, "jaxlib": jaxlib.__version__},
  }


def preprocessing(network: TrainedNetwork) -> dict[str, Any]:
  """What the programs themselves do with an image; a given network that is not ours has its own."""
  section = network.config.segmenter
  if section.adapter:
    return {"inside": True, "by": f"adapter {section.adapter.name}"}
  return {"inside": True, "mean": list(section.mean), "std": list(section.std), "channels": section.channels}
