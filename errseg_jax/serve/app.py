"""The addresses of the server, and how much it takes at a time."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Sequence
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from errseg_jax.errors import UserError
from errseg_jax.report.html import STYLE
from errseg_jax.serve.examples import Example
from errseg_jax.serve.guard import Guard
from errseg_jax.serve.predictor import Predictor
from errseg_jax.serve.uploads import Refused

MAX_INSIDE = (
  8  # uploads that are read, wait or are predicted: this many times the limit is the memory they take
)
READ_SECONDS = 30.0
_FOLDER = pathlib.Path(__file__).parent
SCRIPT, SHEET = "text/javascript", "text/css"
FILES = {
  "page.js": (_FOLDER / "page.js", SCRIPT),
  "camera.js": (_FOLDER / "camera.js", SCRIPT),
  "png.js": (_FOLDER / "png.js", SCRIPT),
  "page.css": (_FOLDER / "page.css", SHEET),
  "report.css": (STYLE, SHEET),
}


def refusal(status: int, line: str) -> JSONResponse:
  """One line; what has not been read of the request is not read any more."""
  return JSONResponse({"error": " ".join(line.split())}, status, {"Connection": "close"})


class Desk:
  """Takes uploads: few at a time, each of a limited size in a limited time, one of them predicted.

  Attributes:
    predictor: answers them.
  """

  def __init__(self, predictor: Predictor):
    self.predictor = predictor
    self._turn, self._inside = asyncio.Lock(), 0

  async def predict(self, request: Request) -> Response:
    """POST of the bytes of an image file."""
    if self._inside >= MAX_INSIDE:
      raise Refused(503, f"{self._inside} images are waiting already: try again in a moment")
    self._inside += 1
    try:
      content = await self._read(request)
      async with self._turn:
        if await request.is_disconnected():  # a page that was closed, or has sent another image since
          return Response(status_code=HTTPStatus.REQUEST_TIMEOUT)
        answer = await run_in_threadpool(self.predictor.answer, content)
    finally:
      self._inside -= 1
    timing = ", ".join(f"{step};dur={time:.2f}" for step, time in answer.times.items())
    headers = {"Content-Encoding": "gzip", "Server-Timing": timing}
    return Response(answer.body, media_type="application/octet-stream", headers=headers)

  async def _read(self, request: Request) -> bytes:
    limits, content = self.predictor.limits, bytearray()
    if (told := request.headers.get("content-length", "")).isdecimal():
      limits.check_bytes(int(told))
    try:
      async with asyncio.timeout(READ_SECONDS):
        async for chunk in request.stream():
          content += chunk
          limits.check_bytes(len(content))
    except TimeoutError:
      raise Refused(408, f"the upload took longer than {READ_SECONDS:g} s") from None
    except ClientDisconnect:
      raise Refused(400, "the upload ended before it was whole") from None
    return bytes(content)

  async def size(self, request: Request) -> Response:
    """GET ?height=H&width=W: whether the network is compiled for images of this size."""
    sides = [request.query_params.get(name, "") for name in ("height", "width")]
    if not all(side.isdecimal() and len(side) < 6 and int(side) for side in sides):
      raise Refused(400, "height and width must be whole numbers of pixels")
    return JSONResponse({"compiled": self.predictor.compiled(*map(int, sides))})


def make_app(predictor: Predictor, page: str, examples: Sequence[Example], host: str) -> Starlette:
  """The server's application.

  Args:
    predictor: answers uploads.
    page: HTML.
    examples: images that the page offers.
    host: that the server was told to listen on.
  """
  desk = Desk(predictor)
  files = {name: (path.read_bytes(), kind) for name, (path, kind) in FILES.items()}

  async def index(request: Request) -> Response:
    return Response(page, media_type="text/html")

  async def file(request: Request) -> Response:
    content, kind = files[request.url.path.removeprefix("/")]
    return Response(content, media_type=kind)

  async def health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})

  def example_of(request: Request) -> Example:
    index = request.path_params["index"]
    if index >= len(examples):
      raise HTTPException(404)
    return examples[index]

  async def example(request: Request) -> Response:
    return Response(await run_in_threadpool(example_of(request).png), media_type="image/png")

  async def thumbnail(request: Request) -> Response:
    return Response(example_of(request).thumbnail, media_type="image/jpeg")

  routes = [
    Route("/", index),
    *(Route(f"/{name}", file) for name in files),
    Route("/healthz", health),
    Route("/size", desk.size),
    Route("/predict", desk.predict, methods=["POST"]),
    Route("/examples/{index:int}", example),
    Route("/examples/{index:int}/thumbnail", thumbnail),
  ]
  handlers = {UserError: _refused, HTTPException: _no_such, Exception: _broken}
  return Starlette(
    routes=routes,
    middleware=[Middleware(Guard, host=host)],
    exception_handlers=handlers,  # type: ignore[arg-type]
  )


async def _refused(request: Request, error: UserError) -> Response:
  return refusal(error.status if isinstance(error, Refused) else 400, str(error))


async def _no_such(request: Request, error: HTTPException) -> Response:
  return refusal(error.status_code, f"{HTTPStatus(error.status_code).phrase.lower()}: see docs/serve.md")


async def _broken(request: Request, error: Exception) -> Response:
  return refusal(500, "an unexpected error; the terminal of `errseg serve` has it")
