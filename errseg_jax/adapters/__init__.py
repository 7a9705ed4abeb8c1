"""Networks that are not ours, frozen in place of the semantic branch: what `config.segmenter.adapter` names."""

from errseg_jax.adapters.exported import ExportAdapter, from_export
from errseg_jax.adapters.function import FunctionAdapter, from_function
from errseg_jax.adapters.network import Adapted, Network, given_weights, normalised
from errseg_jax.adapters.torch import TorchAdapter, from_torch

__all__ = [
  "ADAPTERS",
  "Adapted",
  "Network",
  "from_export",
  "from_function",
  "from_torch",
  "given_weights",
  "normalised",
]

ADAPTERS = {"function": FunctionAdapter, "export": ExportAdapter, "torch": TorchAdapter}
"""Kinds of networks, by the name that a config uses."""
