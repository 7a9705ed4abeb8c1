"""Networks that are not ours, frozen in place of the semantic branch: what `config.segmenter.adapter` names."""

from errseg_jax.adapters.exported import ExportAdapter, from_export
from errseg_jax.adapters.function import FunctionAdapter, from_function
from errseg_jax.adapters.network import Adapted, Network, given_weights, normalised

__all__ = [
  "ADAPTERS",
  "Adapted",
  "Network",
  "from_export",
  "from_function",
  "given_weights",
  "normalised",
]

ADAPTERS = {"function": FunctionAdapter, "export": ExportAdapter}
"""Kinds of networks, by the name that a config uses."""
