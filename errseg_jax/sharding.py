"""One mesh, two shardings: parameters on every device, batches split over them."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from errseg_jax.errors import UserError

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


def make_mesh(num_devices: int | None = None) -> Mesh:
  """A mesh of the first `num_devices` devices, or all."""
  devices = jax.devices()[: num_devices or None]
  return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicate(tree: Any, mesh: Mesh) -> Any:
  """The tree with a copy on every device."""
  return jax.device_put(tree, NamedSharding(mesh, REPLICATED))


def shard_batch(arrays: dict[str, Any], mesh: Mesh) -> dict[str, Any]:
  """This process's rows of a tree of arrays -> global arrays split over the devices."""
  sharding = NamedSharding(mesh, BATCH)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), arrays)
