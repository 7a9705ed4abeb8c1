"""A headless Chromium, driven over its debugging pipe: no package is needed beside the browser."""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys

import pytest

FLAGS = (
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-background-networking",
  "--remote-debugging-pipe",
)
# Chromium reads commands from descriptor 3 and answers on 4.
LAUNCHER = """
import fcntl, os, sys
commands, answers = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3])
os.dup2(commands, 3)
os.dup2(answers, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""


COMPLAINTS = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")


class Page:
  """One tab. Commands are those of the Chrome DevTools Protocol.

  Attributes:
    complaints: what the console has told since it was emptied.
  """

  def __init__(self, read_fd: int, write_fd: int):
    self._read, self._write = os.fdopen(read_fd, "rb"), os.fdopen(write_fd, "wb")
    self._ids = itertools.count(1)
    self._session: dict[str, str] = {}
    self.complaints: list[dict] = []
    target = self.send("Target.createTarget", url="about:blank")["targetId"]
    attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
    self._session = {"sessionId": attached["sessionId"]}
    for domain in ("Runtime", "Log"):
      self.send(f"{domain}.enable")

  def _receive(self) -> dict:
    message = bytearray()
    while (byte := self._read.read(1)) != b"\0":
      if not byte:
        raise EOFError("chromium closed its pipe")
      message += byte
    return json.loads(message)

  def send(self, method: str, **params) -> dict:
    command = {"id": next(self._ids), "method": method, "params": params, **self._session}
    self._write.write(json.dumps(command).encode() + b"\0")
    self._write.flush()
    while (answer := self._receive()).get("id") != command["id"]:
      if answer.get("method") in COMPLAINTS:
        self.complaints.append(answer["params"])
    assert "error" not in answer, answer
    return answer["result"]

  def evaluate(self, expression: str):
    """The value of a JavaScript expression; a promise is awaited."""
    options = {"awaitPromise": True, "returnByValue": True}
    result = self.send("Runtime.evaluate", expression=expression, **options)
    assert "exceptionDetails" not in result, result
    return result["result"].get("value")

  def open(self, url: str, width: int = 1200, height: int = 3000) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    self.send("Emulation.setDeviceMetricsOverride", **size)
    self.send("Page.navigate", url="about:blank")
    self.send("Page.navigate", url=url)
    self.wait_for("document.readyState === 'complete'")

  def wait_for(self, condition: str) -> None:
    """Waits until a JavaScript condition holds, at most 20 s."""
    self.evaluate(
      f"""new Promise((resolve, reject) => {{
        const end = Date.now() + 20000;
        const look = () => ({condition}) ? resolve(true)
          : Date.now() > end ? reject(new Error("timeout")) : setTimeout(look, 20);
        look();
      }})"""
    )


@contextlib.contextmanager
def browser(profile, *flags):
  """A page of a Chromium of its own, with its profile in a folder; the test is skipped where there is none."""
  path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
  if not path:
    pytest.skip("no chromium on this machine; set CHROMIUM to its path")
  to_browser, from_browser = os.pipe(), os.pipe()
  pipes = (to_browser[0], from_browser[1])
  launcher = [sys.executable, "-c", LAUNCHER, *map(str, pipes)]
  quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
  command = [*launcher, path, *FLAGS, *flags, f"--user-data-dir={profile}"]
  process = subprocess.Popen(command, pass_fds=pipes, **quiet)
  os.close(to_browser[0])
  os.close(from_browser[1])
  try:
    yield Page(from_browser[0], to_browser[1])
  finally:
    process.terminate()
    process.wait(timeout=20)


@pytest.fixture(scope="session")
def page(tmp_path_factory):
  with browser(tmp_path_factory.mktemp("chromium")) as page:
    yield page
