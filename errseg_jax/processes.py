"""Several processes that train one network: how they find each other, and what they tell each other.

Every process runs the same command. What is computed over the mesh is the same in all of them; of what is read image by
image each does its share (`own_share`) and hears of the others' (`gathered`). Only the first prints and writes.
"""

from __future__ import annotations

import glob
import importlib.util
import io
import itertools
import os
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from errseg_jax.errors import UserError

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
TIMEOUT = "ERRSEG_TIMEOUT"  # seconds that processes wait for one that is missing
MODES = ("auto", "off")
TPU_CHIPS = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")  # what a host with TPU chips has
PATIENCE = 7 * 24 * 3600 * 1000  # milliseconds: a week
LOST = 75  # exit status when other processes are missing or gone: worth another try, as a mistake (2) is not
SIGNS = ("Gloo", "NCCL", "coordination", "heartbeat", "Connection", "DEADLINE_EXCEEDED", "UNAVAILABLE")


def start(mode: str) -> None:
  """Joins the other processes of the run, where there are any; call it before jax touches a device.

  Three variables say so: JAX_COORDINATOR_ADDRESS (host:port of the first process), JAX_NUM_PROCESSES and
  JAX_PROCESS_ID; else what jax itself knows of SLURM, Open MPI and TPU slices of several hosts.

  Args:
    mode: "auto"; or "off": a run of this process alone.

  Raises:
    UserError: an unknown mode, variables that do not fit together, or a process that did not come in time.
  """
  if mode not in MODES:
    raise UserError(f"--distributed={mode!r}: known are {', '.join(MODES)}")
  explicit = _from_environment() if mode == "auto" else None
  on_tpu = mode == "auto" and explicit is None and _tpu_host()
  if explicit is None and not (mode == "auto" and (on_tpu or _cluster_of_several())):
    return
  seconds = _seconds()
  # jax would end the process with a C++ stack trace at the time that it is given: ours comes first.
  options: dict[str, Any] = (explicit or _own_gpus()) | {"initialization_timeout": seconds + 60}
  patience = threading.Timer(seconds, _give_up, (seconds, explicit or {}))
  patience.daemon = True
  patience.start()
  try:
    jax.distributed.initialize(**options, heartbeat_timeout_seconds=max(10, min(seconds, 100)))
  except (RuntimeError, ValueError, OSError) as error:
    if on_tpu and not jax.distributed.is_initialized():
      return  # chips without a slice's metadata: `check_alone` refuses to be one of several hosts
    raise UserError(
      f"the processes of this run cannot be joined: {str(error).splitlines()[0]}; --distributed=off runs this one alone"
    ) from None
  finally:
    patience.cancel()


def _give_up(seconds: int, known: Mapping[str, Any]) -> None:
  index, count = known.get("process_id"), known.get("num_processes")
  who = "this process" if index is None else f"process {index} of {count}"
  address = known.get("coordinator_address", "")
  missing = "the others" if count is None else ", ".join(str(i) for i in range(count) if i != index)
  if index and not _answers(address):
    missing = (
      f"0, which does not answer at {address}: is it started, and is the port open between the machines"
    )
  elif count is None or count > 2:
    missing += ": at least one of them was not started, or is somewhere else"
  print(
    f"errseg: {who} waited {seconds} s ({TIMEOUT}) for process {missing}; --distributed=off runs this one alone",
    file=sys.stderr,
  )
  leave(LOST)


def _answers(address: str) -> bool:
  host, _, port = address.rpartition(":")
  try:
    with socket.create_connection((host.strip("[]"), int(port)), timeout=3):
      return True
  except (OSError, ValueError):
    return False


def leave(status: int) -> NoReturn:
  """Ends this process of several at once: jax would first wait for the others, which may wait for this one."""
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


def lost(error: BaseException) -> str:
  """What to say of an error that came of another process's end; "" of any other."""
  if not (several() and isinstance(error, jax.errors.JaxRuntimeError | ValueError)):
    return ""
  text = " ".join(str(error).split())
  if not any(word in text for word in SIGNS):
    return ""
  return (
    f"process {jax.process_index()} of {jax.process_count()} has lost another one, whose own messages say why "
    f"({text[:160]}); start all of them again: training goes on from its last checkpoint"
  )


def _from_environment() -> dict | None:
  found = {name: os.environ.get(name, "") for name in (ADDRESS, COUNT, INDEX)}
  if not found[COUNT] and not found[INDEX]:
    return None  # an address alone belongs to what jax detects
  missing = [name for name, value in found.items() if not value]
  if missing:
    raise UserError(
      f"{', '.join(missing)} is not set beside {COUNT if found[COUNT] else INDEX}: set all three, or none"
    )
  if not (found[COUNT].isdecimal() and found[INDEX].isdecimal() and int(found[INDEX]) < int(found[COUNT])):
    raise UserError(
      f"{COUNT}={found[COUNT]} and {INDEX}={found[INDEX]} must be whole numbers, the second below the first"
    )
  if not found[ADDRESS].rpartition(":")[2].isdecimal() or ":" not in found[ADDRESS]:
    raise UserError(f"{ADDRESS}={found[ADDRESS]} must be HOST:PORT, of the first process")
  if int(found[COUNT]) == 1:
    return None
  return {
    "coordinator_address": found[ADDRESS],
    "num_processes": int(found[COUNT]),
    "process_id": int(found[INDEX]),
    "cluster_detection_method": "deactivate",
  }


def _cluster_of_several() -> bool:
  """Whether what starts processes started several, by its own variables: srun's, not the allocation's it may use."""
  counts = (os.environ.get("SLURM_STEP_NUM_TASKS", ""), os.environ.get("OMPI_COMM_WORLD_SIZE", ""))
  if any(count.isdecimal() and int(count) > 1 for count in counts):
    return True
  return "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def _tpu_host() -> bool:
  """Whether this machine has TPU chips: alone or one of a slice's hosts, which its metadata tell jax."""
  return importlib.util.find_spec("libtpu") is not None and any(map(glob.glob, TPU_CHIPS))


def _own_gpus() -> dict[str, list[int]]:
  """All GPUs that a SLURM task sees, where they are its own: jax would take the n-th in a node's n-th task."""
  visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
  bound = "SLURM_GPUS_PER_TASK" in os.environ or os.environ.get("SLURM_NTASKS_PER_NODE") == "1"
  return {"local_device_ids": list(range(len(visible)))} if bound and visible else {}


def check_alone() -> None:
  """Once devices are known: a process that is to work alone does.

  Raises:
    UserError: it is one of several hosts of a TPU slice, which work together or not at all.
  """
  if jax.process_count() > 1 and not jax.distributed.is_initialized():
    raise UserError(
      f"this host is one of {jax.process_count()} of a TPU slice, and they have not found each other: leave "
      f"--distributed=off out, or set {ADDRESS}, {COUNT} and {INDEX} on each"
    )


def _seconds() -> int:
  text = os.environ.get(TIMEOUT, "300")
  if not text.isdecimal() or int(text) < 1:
    raise UserError(f"{TIMEOUT}={text} must be a whole number of seconds")
  return int(text)


def several() -> bool:
  """More than this process work on the run."""
  return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
  """This process prints and writes."""
  return not several() or jax.process_index() == 0


def own_share(count: int) -> np.ndarray:
  """Indices, of `count`, of what this process does."""
  return np.arange(jax.process_index(), count, jax.process_count())


_barriers = itertools.count()


def wait() -> None:
  """Until every process is there, however long; of a lost one jax's heartbeats tell.

  What devices of several processes compute together wants all of them to come within seconds (30 with gloo), where
  one may have read, compiled or scored for minutes more than another: they meet here before.
  """
  if several():
    from orbax.checkpoint import multihost  # most commands need none of it

    meet = multihost.get_barrier_sync_fn()
    meet(key=f"errseg/{next(_barriers)}", timeout_ms=PATIENCE)


_asked = itertools.count(1)  # of all runs of this process: jax's service wants it to grow


def told_to_stop() -> bool:
  """Whether one of several processes got SIGTERM; asked by all alike, and all hear of it in the same call."""
  return multihost_utils.reached_preemption_sync_point(next(_asked))


def gathered(arrays: Mapping[str, np.ndarray]) -> Sequence[dict[str, np.ndarray]]:
  """The arrays of each process, by name, in the processes' order: names and shapes may differ among them."""
  if not several():
    return [dict(arrays)]
  buffer = io.BytesIO()
  np.savez(buffer, allow_pickle=False, **arrays)
  own = np.frombuffer(buffer.getvalue(), np.uint8)
  wait()
  sizes = np.asarray(multihost_utils.process_allgather(np.array([own.size]))).reshape(-1)
  # By powers of two: jax compiles the exchange of each size.
  padded = np.zeros(1 << int(sizes.max()).bit_length(), np.uint8)
  padded[: own.size] = own
  rows = np.asarray(multihost_utils.process_allgather(padded))
  return [_read(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def _read(data: bytes) -> dict[str, np.ndarray]:
  with np.load(io.BytesIO(data), allow_pickle=False) as file:
    return {name: file[name] for name in file.files}
