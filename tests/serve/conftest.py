"""The tiny run behind the application: in this process, and on a real port for a browser and raw sockets."""

import contextlib
import json
import socket
import struct
import threading
import time

import numpy as np
import pytest
from starlette.testclient import TestClient

from errseg_jax.serve.app import make_app
from errseg_jax.serve.examples import find_examples
from errseg_jax.serve.page import make_page
from errseg_jax.serve.predictor import PLANES, Predictor
from errseg_jax.serve.server import bound, make_server
from errseg_jax.serve.uploads import Limits
from errseg_jax.train.restore import load
from tests.report.conftest import browser

HOST = "127.0.0.1"
LIMITS = Limits(megabytes=1, megapixels=1)


@pytest.fixture(scope="session")
def network(trained):
  return load(trained)


@pytest.fixture(scope="session")
def app(network):
  examples = find_examples(network.config)
  page = make_page(network, "tiny", examples, LIMITS)
  return make_app(Predictor(network, LIMITS), page, examples, HOST)


@pytest.fixture
def client(app):
  return TestClient(app, f"http://{HOST}:8000", raise_server_exceptions=False)


@contextlib.contextmanager
def listening(app):
  """The port of a real server, for as long as the context lasts."""
  with bound(HOST, 0) as listener:
    server = make_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
      time.sleep(0.01)
    try:
      yield listener.getsockname()[1]
    finally:
      server.should_exit = True
      thread.join()


@pytest.fixture(scope="session")
def port(app):
  with listening(app) as port:
    yield port


@pytest.fixture(scope="session")
def page(tmp_path_factory):
  """A Chromium with a webcam that shows a test pattern."""
  camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
  with browser(tmp_path_factory.mktemp("chromium"), *camera) as page:
    yield page


def unpacked(body: bytes) -> tuple[dict, dict[str, np.ndarray], bytes]:
  """(what is told, planes by name, JPEG) of an answer that is not compressed any more."""
  (length,) = struct.unpack_from("<I", body)
  told = json.loads(body[4 : 4 + length])
  shape = told["height"], told["width"]
  size, start = shape[0] * shape[1], 4 + length
  planes = {
    name: np.frombuffer(body, np.uint8, size, start + i * size).reshape(shape)
    for i, name in enumerate(PLANES)
  }
  return told, planes, body[start + len(PLANES) * size :]


def said(port: int, *parts: bytes, pause: float = 0.0, close: bool = False) -> bytes:
  """What a server answers to raw bytes; `close` ends the sending side."""
  with socket.create_connection((HOST, port), timeout=10) as connection:
    with contextlib.suppress(OSError):  # an early refusal may close before all is sent
      for part in parts:
        connection.sendall(part)
        time.sleep(pause)
      if close:
        connection.shutdown(socket.SHUT_WR)
    out = b""
    with contextlib.suppress(OSError):
      while part := connection.recv(65536):
        out += part
  return out
