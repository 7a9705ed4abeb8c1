"""Who may ask: the page itself, under a name of this server."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
  "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
  "img-src 'self' data: blob:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Cache-Control": "no-store",
}
"""Of every answer."""


def is_loopback(host: str) -> bool:
  """Whether only this machine reaches an address."""
  return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(host: str) -> bool:
  try:
    ipaddress.ip_address(host)
  except ValueError:
    return False
  return True


def _hostname(netloc: str) -> str:
  """Of a Host header, without its port; "" of what is none."""
  try:
    return (urlsplit(f"//{netloc}").hostname or "").rstrip(".")
  except ValueError:
    return ""


class Guard:
  """Refuses requests under a foreign name, and from other sites' pages; adds the headers of every answer.

  A page of another site can make a name of its own point to this address (DNS rebinding), and a browser would
  then take it for this server's page. Its requests carry that name: only `localhost`, the host of --host and, where the
  server listens beyond this machine, its name and addresses are answered.

  Attributes:
    app: what is guarded.
    host: that the server was told to listen on.
  """

  def __init__(self, app: ASGIApp, host: str):
    self.app, self.host = app, host.lower()
    self._names = {"localhost", self.host, *([] if is_loopback(host) else [socket.gethostname().lower()])}

  def _ours(self, name: str) -> bool:
    if name in self._names:
      return True
    # An address is no name that could be made to point elsewhere.
    return _is_address(name) and (is_loopback(name) or not is_loopback(self.host))

  def _refusal(self, scope: Scope) -> str:
    headers = Headers(scope=scope)
    host = headers.get("host", "")
    if not self._ours(_hostname(host)):
      return "the request names another host: open the address that `errseg serve` printed"
    # Behind a tunnel or a proxy the port differs, the same in both.
    if (origin := headers.get("origin")) is not None and urlsplit(origin).netloc != host:
      return "the request comes from a page of another site"
    return ""

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """As an ASGI application."""
    if scope["type"] != "http":
      return

    async def with_headers(message: Message) -> None:
      if message["type"] == "http.response.start":
        headers = MutableHeaders(scope=message)
        for name, value in HEADERS.items():
          headers[name] = value
      await send(message)

    if line := self._refusal(scope):
      await JSONResponse({"error": line}, 403)(scope, receive, with_headers)
    else:
      await self.app(scope, receive, with_headers)
