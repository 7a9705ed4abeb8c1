"""One mesh, two shardings: parameters on every device, batches split over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from errseg_jax import processes
from errseg_jax.errors import UserError

OWN = "own"  # in place of a number of devices
WIDE = 2**18  # numbers of an array from which on it is split over the axis `model`
REPLICATED = PartitionSpec()
BATCH = PartitionSpec("data")


def select_platform(platform: str | None, num_devices: int | None) -> None:
  """Chooses the platform by name; call it before anything runs on a device.

  Raises:
    UserError: the installed jax has no such platform, or fewer devices.
  """
  if platform:
    jax.config.update("jax_platforms", "cuda" if platform == "gpu" else platform)
  try:
    found = len(jax.devices())
  except RuntimeError:
    raise UserError(
      f"config.platform={platform!r}: this installation of jax has no such device; "
      "install jax for it, or use --config.platform=cpu"
    ) from None
  processes.check_alone()
  if num_devices and not 0 < num_devices <= found:
    raise UserError(f"config.num_devices={num_devices}, but jax finds {found}: {jax.devices()[0].platform}")
  if num_devices and processes.several() and num_devices < found:
    raise UserError(
      f"config.num_devices={num_devices}: {jax.process_count()} processes work together, with all of their {found} "
      "devices; leave it out, or start them with --distributed=off"
    )


def make_mesh(num_devices: int | str | None = None, model: int = 1) -> Mesh:
  """A mesh of the first `num_devices` devices, of all (None), or of this process's (OWN).

  Args:
    num_devices: see above.
    model: devices side by side that share one copy of wide arrays (`place`); the batch is split over the others.

  Raises:
    UserError: `model` does not divide the devices of each process.
  """
  devices = jax.local_devices() if isinstance(num_devices, str) else jax.devices()[: num_devices or None]
  if model < 1 or min(len(devices), jax.local_device_count()) % model:
    raise UserError(
      f"config.train.model_devices={model} does not divide the {len(devices)} devices, or those of a process"
    )
  if model == 1:
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
  grid = np.array(side_by_side(devices)).reshape(-1, model)
  return Mesh(grid, ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def side_by_side(devices: Sequence[Any]) -> list[Any]:
  """Devices in the order of processes: what lies on `model` of them in a row is whole in one process (`_whole`)."""
  return sorted(devices, key=lambda device: (device.process_index, device.id))


def placement(array: Any, mesh: Mesh) -> NamedSharding:
  """A copy on every device; wide arrays are split by their last axis, of output channels, over the axis `model`."""
  parts = mesh.shape.get("model", 1)
  if parts == 1 or array.ndim < 2 or array.size < WIDE or array.shape[-1] % parts:
    return NamedSharding(mesh, REPLICATED)
  return NamedSharding(mesh, PartitionSpec(*[None] * (array.ndim - 1), "model"))


def place(tree: Any, mesh: Mesh) -> Any:
  """The tree, which is the same in every process, on the devices of a mesh."""
  if mesh.devices.size == len(mesh.local_devices):
    own = jax.tree.map(_whole, tree)
    return jax.device_put(own, jax.tree.map(lambda x: placement(x, mesh), own))
  arrays = jax.tree.map(lambda x: np.asarray(_whole(x)), tree)

  def put(array: np.ndarray) -> jax.Array:
    return jax.make_array_from_callback(array.shape, placement(array, mesh), lambda at: array[at])

  return jax.tree.map(put, arrays)


def keep_placed(tree: Any, mesh: Mesh) -> Any:
  """Inside a program: what it returns lies as `place` puts it."""
  if "model" not in mesh.shape:
    return tree
  return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, placement(x, mesh)), tree)


def _whole(array: Any) -> Any:
  """Of an array on devices of several processes, all of it: each process has a copy, or all parts of one."""
  if not isinstance(array, jax.Array) or array.is_fully_addressable:
    return array
  out = np.empty(array.shape, array.dtype)
  for shard in array.addressable_shards:
    out[shard.index] = shard.data
  return out


def shard_batch(arrays: dict[str, Any], mesh: Mesh) -> dict[str, Any]:
  """This process's rows of a tree of arrays -> global arrays split over the devices."""
  sharding = NamedSharding(mesh, BATCH)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), arrays)
