"""`errseg serve`: loads a run, compiles it, and serves until it is told to end."""

from __future__ import annotations

import contextlib
import pathlib
import signal
import socket
import sys
from collections.abc import Iterator

import numpy as np
import uvicorn
from ml_collections import ConfigDict
from starlette.applications import Starlette

from errseg_jax.adapters.network import RGB
from errseg_jax.errors import UserError
from errseg_jax.serve.app import make_app
from errseg_jax.serve.examples import find_examples
from errseg_jax.serve.guard import is_loopback
from errseg_jax.serve.page import make_page
from errseg_jax.serve.predictor import Predictor
from errseg_jax.serve.uploads import Limits, read_upload
from errseg_jax.train.restore import load


def taken(host: str, port: int, error: OSError) -> UserError:
  """What to say where an address cannot be listened on."""
  why = (error.strerror or str(error)).lower()
  another = f"name another port, as --port={port % 65535 + 1}, or another host"
  return UserError(f"--host={host} --port={port}: {why}; {another}")


def bound(host: str, port: int) -> socket.socket:
  """A socket at an address; it does not listen yet.

  Raises:
    UserError: the port is taken, or the host is no address of this machine.
  """
  try:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    found = socket.socket(family, kind, protocol)
  except (socket.gaierror, UnicodeError):
    raise UserError(f"--host={host} is no address: take 127.0.0.1, or one of this machine") from None
  try:
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind(address)
  except OSError as error:
    found.close()
    raise taken(host, port, error) from None
  return found


def make_server(app: Starlette) -> uvicorn.Server:
  """A server without a log of who asked for what."""
  return uvicorn.Server(
    uvicorn.Config(
      app,
      loop="asyncio",
      http="h11",
      ws="none",
      lifespan="off",
      log_config=None,  # the command has set up logging
      log_level="warning",
      access_log=False,
      server_header=False,
      limit_concurrency=64,
      timeout_graceful_shutdown=5,
    )
  )


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
  """uvicorn ends at SIGINT and SIGTERM, and raises them again afterwards: that is how it is meant to end."""
  before = {s: signal.signal(s, lambda *_: None) for s in (signal.SIGINT, signal.SIGTERM)}
  try:
    yield
  finally:
    for which, handler in before.items():
      signal.signal(which, handler)


def ready(config: ConfigDict, workdir: pathlib.Path, host: str, limits: Limits) -> Starlette:
  """The application of a run, compiled for an image of its data set or of its crop.

  Raises:
    UserError: no finished run there, or one that sees more than the image.
  """
  network = load(workdir, config)
  if network.model.image_channels != RGB:
    raise UserError(
      f"{workdir}: this run sees class scores of each image in files (segmenter.adapter), which an upload has not; "
      "`errseg predict` reads them"
    )
  predictor, examples = Predictor(network, limits), find_examples(config)
  page = make_page(network, workdir.resolve().name, examples, limits)
  image = np.zeros((*config.transform.crop_size, RGB), np.uint8)
  with contextlib.suppress(UserError):  # an example may be larger than the limit
    image = read_upload(examples[0].png(), limits) if examples else image
  predictor.predict(image)
  return make_app(predictor, page, examples, host)


def serve(config: ConfigDict, workdir: pathlib.Path, host: str, port: int, limits: Limits) -> None:
  """Serves the page of a run until SIGINT or SIGTERM.

  Args:
    config: of the workdir, with changes of this call.
    workdir: of a finished run.
    host: address or name to listen on.
    port: 0 takes a free one.
    limits: of an upload.

  Raises:
    UserError: as `bound` and `ready`.
  """
  with bound(host, port) as listener:
    server = make_server(ready(config, workdir, host, limits))
    if not is_loopback(host):
      line = "whoever reaches this port can use it, and nothing is encrypted; leave out --host to keep to this machine"
      print(f"errseg: warning: {line}", file=sys.stderr)
    name = f"[{host}]" if ":" in host else host
    with _ended_by_signals():
      try:
        listener.listen()  # from here on a browser waits, and is not refused
      except OSError as error:  # another took the port while the run was loaded
        raise taken(host, port, error) from None
      where = f"http://{name}:{listener.getsockname()[1]}"
      print(f"serving {workdir} on {where} (Ctrl-C ends it)", flush=True)
      server.run(sockets=[listener])
