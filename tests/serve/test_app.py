"""Who is answered, and how much at a time."""

import json
import socket
import threading
import time

import numpy as np
import pytest
from starlette.testclient import TestClient

from errseg_jax import assemble
from errseg_jax.serve import app as app_module
from errseg_jax.serve.app import MAX_INSIDE, make_app
from errseg_jax.serve.guard import HEADERS
from errseg_jax.serve.predictor import Answer
from errseg_jax.serve.uploads import read_upload
from tests.serve.conftest import HOST, LIMITS, listening, said
from tests.serve.test_uploads import PNG


class Slow:
  """A predictor that answers when it is let."""

  def __init__(self):
    self.limits, self.let, self.count, self.at_once, self.most = LIMITS, threading.Event(), 0, 0, 0

  def answer(self, content):
    self.count, self.at_once = self.count + 1, self.at_once + 1
    self.most = max(self.most, self.at_once)
    assert self.let.wait(20)
    self.at_once -= 1
    return Answer(b"", {})


class Broken:
  limits = LIMITS

  def answer(self, content):
    raise RuntimeError("secret detail")


def post(body, length=None, extra=""):
  length = len(body) if length is None else length
  head = (
    f"POST /predict HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{extra}Content-Length: {length}\r\n\r\n"
  )
  return head.encode() + body


def status(raw):
  return int(raw.split(b" ")[1])


def line(raw):
  return json.loads(raw.partition(b"\r\n\r\n")[2])["error"]


@pytest.mark.parametrize(
  "host", [f"{HOST}:8000", "localhost:1", "LOCALHOST", "127.0.0.2", "[::1]:8000", "localhost."]
)
def test_names_of_this_machine_are_answered(client, host):
  assert client.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
  "host",
  ["evil.com", "evil.com:8000", "127.0.0.1.evil.com", "localhost.evil.com", "192.168.0.9", "", "[::1", "a b"],
)
@pytest.mark.parametrize("path", ["/", "/predict", "/examples/0"])
def test_a_foreign_name_is_refused_everywhere(client, host, path):
  answer = client.request("POST" if path == "/predict" else "GET", path, headers={"Host": host}, content=PNG)
  assert answer.status_code == 403
  assert "another host" in answer.json()["error"]


def test_beyond_this_machine_addresses_are_answered_and_foreign_names_are_not():
  client = TestClient(make_app(Slow(), "", [], "0.0.0.0"), "http://192.168.0.9:8000")
  assert client.get("/healthz").status_code == 200
  assert client.get("/healthz", headers={"Host": "evil.com"}).status_code == 403


@pytest.mark.parametrize(
  "origin", ["http://evil.com", "null", "http://127.0.0.1:8001", "http://127.0.0.1", ""]
)
def test_the_page_of_another_site_cannot_ask(client, origin):
  answer = client.post("/predict", content=PNG, headers={"Origin": origin})
  assert answer.status_code == 403
  assert "another site" in answer.json()["error"]


def test_the_page_itself_can_ask(client):
  assert client.post("/predict", content=PNG, headers={"Origin": f"http://{HOST}:8000"}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/nothing", "/predict", "/page.js", "/examples/0"])
def test_every_answer_has_the_headers(client, path):
  answer = client.get(path)
  assert {name: answer.headers[name] for name in HEADERS} == HEADERS
  assert "unsafe" not in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
  "path",
  [
    "/nothing", "/page.py", "/report.js", "/examples/99", "/examples/-1", "/examples/x", "/examples/0/x", "//page.js",
    "/../pyproject.toml", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc%2fpasswd", "/examples/..%2f..%2fconfig.json",
    "/examples/0/thumbnail/..%2f..%2f..%2fpage.py", "/config.json", "/page.js%00.py",
  ],
)  # fmt: skip
def test_unknown_paths_and_ways_out_lead_nowhere(port, path):
  raw = said(port, f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
  assert status(raw) in (404, 307)
  assert status(raw) == 307 or "not found" in line(raw)


@pytest.mark.parametrize(
  ("method", "path"), [("GET", "/predict"), ("PUT", "/predict"), ("POST", "/"), ("DELETE", "/")]
)
def test_other_methods_are_refused(client, method, path):
  answer = client.request(method, path)
  assert answer.status_code == 405
  assert "method not allowed" in answer.json()["error"]


@pytest.mark.parametrize(
  "query",
  ["", "height=1", "height=0&width=5", "height=-3&width=5", "height=1e9&width=5", "height=999999&width=5"],
)
def test_a_size_that_is_none_is_refused(client, query):
  assert client.get(f"/size?{query}").status_code == 400


def test_a_file_over_the_limit_is_refused_before_it_comes(port):
  raw = said(port, post(b"x", length=LIMITS.max_bytes + 1))
  assert status(raw) == 413
  assert "1 MB" in line(raw)


def test_a_file_without_a_length_is_refused_as_it_passes_the_limit(port):
  head = f"POST /predict HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
  piece = b"%x\r\n%s\r\n" % (2**17, bytes(2**17))
  raw = said(port, head, *[piece] * 9, pause=0.01)
  assert status(raw) == 413


@pytest.mark.parametrize("length", ["-1", "abc", "1, 2", "0x10"])
def test_a_length_that_is_none_is_refused(port, length):
  assert status(said(port, post(b"hello", length=length))) == 400


def test_a_shorter_file_than_it_says_ends_quietly(port, capfd):
  said(port, post(PNG, length=len(PNG) + 50), close=True)
  time.sleep(0.2)
  assert status(said(port, post(PNG))) == 200
  assert "Traceback" not in capfd.readouterr().err


def test_a_slow_upload_is_cut_off(port, monkeypatch):
  monkeypatch.setattr(app_module, "READ_SECONDS", 0.2)
  raw = said(port, post(b"x", length=1000))
  assert status(raw) == 408
  assert "longer than 0.2 s" in line(raw)


def test_few_may_wait_and_one_at_a_time_is_predicted():
  slow = Slow()
  answers = []
  with listening(make_app(slow, "", [], HOST)) as port:
    threads = [
      threading.Thread(target=lambda: answers.append(said(port, post(PNG)))) for _ in range(MAX_INSIDE)
    ]
    for thread in threads:
      thread.start()
    time.sleep(1.5)
    refused = said(port, post(PNG))
    slow.let.set()
    for thread in threads:
      thread.join()
    after = said(port, post(PNG))
  assert status(refused) == 503
  assert "waiting already" in line(refused)
  assert [status(raw) for raw in answers] == [200] * MAX_INSIDE
  assert status(after) == 200
  assert slow.most == 1


def test_who_has_gone_is_not_answered():
  slow = Slow()
  with listening(make_app(slow, "", [], HOST)) as port:
    first = threading.Thread(target=said, args=(port, post(PNG)))
    first.start()
    while slow.count == 0:
      time.sleep(0.01)
    with socket.create_connection((HOST, port)) as gone:
      gone.sendall(post(PNG))
    time.sleep(0.5)
    slow.let.set()
    first.join()
    assert status(said(port, post(PNG))) == 200
  assert slow.count == 2


def test_an_unexpected_error_tells_the_browser_nothing_of_itself():
  client = TestClient(make_app(Broken(), "", [], HOST), f"http://{HOST}", raise_server_exceptions=False)
  answer = client.post("/predict", content=PNG)
  assert answer.status_code == 500
  assert "unexpected" in answer.json()["error"]
  assert "secret" not in answer.text


def test_examples_are_the_images_of_the_reported_split(client, network):
  source = assemble.dataset(network.config).source("val")
  page = client.get("/").text
  for i, name in enumerate(source.names):
    np.testing.assert_array_equal(
      read_upload(client.get(f"/examples/{i}").content, LIMITS), source[i]["image"]
    )
    assert max(read_upload(client.get(f"/examples/{i}/thumbnail").content, LIMITS).shape) <= 160
    assert f'data-name="{name}"' in page
  assert client.get(f"/examples/{len(source)}").status_code == 404
