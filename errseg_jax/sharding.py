"""One mesh, two shardings: parameters on every device, batches split over them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from errseg_jax import processes
from errseg_jax.errors import UserError

OWN = "own"  # in place of a number of devices
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
  if num_devices and not 0 < num_devices <= found:
    raise UserError(f"config.num_devices={num_devices}, but jax finds {found}: {jax.devices()[0].platform}")
  if num_devices and processes.several() and num_devices < found:
    raise UserError(
      f"config.num_devices={num_devices}: {jax.process_count()} processes work together, with all of their {found} "
      "devices; leave it out, or start them with --distributed=off"
    )


def make_mesh(num_devices: int | str | None = None) -> Mesh:
  """A mesh of the first `num_devices` devices, of all (None), or of this process's (OWN)."""
  devices = jax.local_devices() if isinstance(num_devices, str) else jax.devices()[: num_devices or None]
  return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicate(tree: Any, mesh: Mesh) -> Any:
  """The tree, which is the same in every process, with a copy on every device."""
  sharding = NamedSharding(mesh, REPLICATED)
  if mesh.devices.size == len(mesh.local_devices):
    return jax.device_put(jax.tree.map(_own_copy, tree), sharding)
  arrays = jax.tree.map(lambda x: np.asarray(_own_copy(x)), tree)
  return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, lambda at: x[at]), arrays)


def _own_copy(array: Any) -> Any:
  """Of an array on devices of several processes, the copy on one of ours."""
  if isinstance(array, jax.Array) and not array.is_fully_addressable:
    return array.addressable_data(0)
  return array


def shard_batch(arrays: dict[str, Any], mesh: Mesh) -> dict[str, Any]:
  """This process's rows of a tree of arrays -> global arrays split over the devices."""
  sharding = NamedSharding(mesh, BATCH)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), arrays)
