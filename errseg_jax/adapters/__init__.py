"""Networks that are not ours, frozen in place of the semantic branch: what `config.segmenter.adapter` names."""

from errseg_jax.adapters.exported import ExportAdapter, from_export
from errseg_jax.adapters.function import FunctionAdapter, from_function
from errseg_jax.adapters.host import CallbackAdapter, HostAdapter, OnnxAdapter
from errseg_jax.adapters.keras import KerasAdapter, from_keras
from errseg_jax.adapters.network import Adapted, Network, given_weights, normalised
from errseg_jax.adapters.saved import SavedAdapter
from errseg_jax.adapters.torch import TorchAdapter, from_torch

__all__ = [
  "ADAPTERS",
  "Adapted",
  "HostAdapter",
  "Network",
  "SavedAdapter",
  "from_export",
  "from_function",
  "from_keras",
  "from_torch",
  "given_weights",
  "normalised",
]

ADAPTERS = {
  "function": FunctionAdapter,
  "export": ExportAdapter,
  "torch": TorchAdapter,
  "keras": KerasAdapter,
  "saved": SavedAdapter,
  "onnx": OnnxAdapter,
  "callback": CallbackAdapter,
}
"""Kinds of networks, by the name that a config uses."""
