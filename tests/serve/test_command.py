"""The command as a user starts and ends it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import pytest
from starlette.applications import Starlette

from errseg_jax.cli import main
from errseg_jax.serve import server as server_module
from errseg_jax.serve.guard import is_loopback

CODE = """
import sys
from errseg_jax.models.backbones import resnet
resnet.BLOCKS[10] = (1, 1, 1, 1)
from errseg_jax.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_it_says_where_it_serves_and_ends_with_status_0(trained):
  words = ["serve", f"--workdir={trained}", "--port=0", "--config.num_devices=1"]
  process = subprocess.Popen(
    [sys.executable, "-c", CODE, *words],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=os.environ,
  )
  try:
    said = process.stdout.readline()
    found = re.fullmatch(r"serving (\S+) on (http://127\.0\.0\.1:\d+) \(Ctrl-C ends it\)\n", said)
    assert found, said + process.stderr.read()
    assert found[1] == str(trained)
    with urllib.request.urlopen(f"{found[2]}/healthz") as answer:
      assert json.load(answer) == {"status": "ok"}
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
  finally:
    process.kill()
  assert process.returncode == 0
  assert out == ""
  assert "Traceback" not in err
  assert "healthz" not in err


def test_ctrl_c_ends_it_with_status_0(trained, monkeypatch, capsys):
  def ready(*_):
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    return Starlette()

  monkeypatch.setattr("errseg_jax.commands.prepare", lambda config: None)
  monkeypatch.setattr(server_module, "ready", ready)
  before = signal.getsignal(signal.SIGINT)
  assert main(["serve", f"--workdir={trained}", "--port=0"]) == 0
  assert signal.getsignal(signal.SIGINT) is before
  assert capsys.readouterr().out.startswith("serving ")


def refused(capsys, *words):
  assert main(["serve", *words]) == 2
  err = capsys.readouterr().err
  assert err.count("\n") == 1
  return err


@pytest.fixture
def quick(monkeypatch):
  """The mistakes are found before anything is loaded."""
  monkeypatch.setattr("errseg_jax.commands.prepare", lambda config: None)
  monkeypatch.setattr(server_module, "ready", lambda *_: pytest.fail("it was loaded"))


def test_a_taken_port_names_another(quick, trained, capsys):
  with socket.create_server(("127.0.0.1", 0)) as other:
    port = other.getsockname()[1]
    line = refused(capsys, f"--workdir={trained}", f"--port={port}")
  assert f"--port={port}" in line
  assert "in use" in line
  assert re.search(r"as --port=\d+", line)


def test_a_port_that_is_taken_while_the_run_is_loaded_is_said_too(trained, monkeypatch, capsys):
  others = []

  def ready(config, workdir, host, limits):
    others.append(socket.create_server((host, port)))

  with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
  monkeypatch.setattr("errseg_jax.commands.prepare", lambda config: None)
  monkeypatch.setattr(server_module, "ready", ready)
  monkeypatch.setattr(server_module, "make_server", lambda app: None)
  assert "in use" in refused(capsys, f"--workdir={trained}", f"--port={port}")
  others[0].close()


@pytest.mark.parametrize(
  ("flag", "words"),
  [
    ("--host=no.such.host.invalid", "no address"),
    ("--host=192.0.2.1", "another host"),
    ("--port=65536", "65535"),
    ("--port=many", "whole number"),
    ("--limit=0", "above 0"),
    ("--megapixels=-1", "whole number"),
  ],
)
def test_mistakes_are_one_line(quick, trained, capsys, flag, words):
  assert words in refused(capsys, f"--workdir={trained}", flag)


def test_listening_beyond_this_machine_is_warned_of(trained, monkeypatch, capsys):
  class Server:
    def run(self, sockets):
      del sockets

  monkeypatch.setattr("errseg_jax.commands.prepare", lambda config: None)
  monkeypatch.setattr(server_module, "ready", lambda *_: None)
  monkeypatch.setattr(server_module, "make_server", lambda app: Server())
  words = ["serve", f"--workdir={trained}", "--port=0"]
  for host, warned in (("0.0.0.0", True), ("127.0.0.1", False), ("localhost", False)):
    assert main([*words, f"--host={host}"]) == 0
    captured = capsys.readouterr()
    assert ("nothing is encrypted" in captured.err) is warned
    assert f"on http://{host}:" in captured.out


def test_what_is_this_machine_alone():
  assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
  assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.2", "example.org", "")))
