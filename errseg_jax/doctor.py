"""`errseg doctor`: versions, devices, optional parts."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform

from rich.console import Console
from rich.markup import escape
from rich.table import Table

NEEDED = (
  *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "ml_collections"),
  *("clu", "numpy", "scipy", "opencv-python-headless", "pillow", "matplotlib", "jinja2", "rich"),
  *("tensorboardX", "safetensors", "array-record", "tifffile", "jaxtyping", "starlette", "uvicorn"),
)
OPTIONAL = {
  "torch": "to convert .pth and .pt files",
  "torchax": "PyTorch modules as given networks, with torch",
  "keras": "Keras models as given networks",
  "onnxruntime": "scores of ONNX networks by `errseg data extract`",
  "h5py": "to convert Keras .h5 files",
  "tensorboard": "to look at the event files",
  "wandb": "runs on Weights & Biases (config.train.wandb)",
}


def doctor() -> int:
  """Prints what is installed and what is missing; 0 if nothing needed is missing, else 1."""
  table = Table(title=f"errseg-jax on Python {platform.python_version()}, {platform.platform()}")
  table.add_column("part")
  table.add_column("state")
  missing = []
  for name in NEEDED:
    try:
      table.add_row(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
      missing.append(name)
      table.add_row(name, "[red]missing[/red]: pip install " + name)
  for name, use in OPTIONAL.items():
    found = importlib.util.find_spec(name) is not None
    table.add_row(name, "found" if found else f"not installed (optional: {use})")
  if "jax" not in missing:
    import jax

    try:
      for device in jax.devices():
        table.add_row(f"device {device.id}", f"{device.platform}: {device.device_kind}")
    except RuntimeError as error:
      missing.append("device")
      table.add_row("devices", f"[red]none[/red]: {escape(str(error))}")
  Console().print(table)
  return 1 if missing else 0
