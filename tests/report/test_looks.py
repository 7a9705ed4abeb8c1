"""The report in a browser, by mouse: light, dark, at the width of a phone; and the viewer, however fast it is asked.

SCREENSHOTS=FOLDER keeps the pictures, to be looked at.
"""

import base64
import dataclasses
import io
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from errseg_jax.report import html
from tests.report.test_html import HISTORY, INFO, ISSUES, make_curves, make_item, make_results

SHOTS = os.environ.get("SCREENSHOTS")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
  """Of 30 images, of which a window shows a few."""
  path, curves = tmp_path_factory.mktemp("report") / "report.html", make_curves()
  gallery = [dataclasses.replace(make_item(i % 5, f"image{i}"), reasons=("worst",)) for i in range(30)]
  html.write_report(path, make_results(curves), HISTORY, curves, gallery, INFO, {"lr": 0.1}, ISSUES)
  return path


@pytest.fixture
def opened(page, report):
  """The report, freshly loaded, in a window that shows its first images."""
  page.complaints.clear()
  page.open(report.as_uri(), height=900)
  page.wait_for("errsegReport.state().items[0].flagged !== null")
  return page


def place(page, selector: str) -> tuple[float, float, float, float]:
  """x, y, width, height of an element in the window, scrolled to."""
  return page.evaluate(
    f"""(() => {{
      const element = document.querySelector("{selector}");
      element.scrollIntoView({{ behavior: "instant", block: "center" }});
      const {{ x, y, width, height }} = element.getBoundingClientRect();
      return [x, y, width, height];
    }})()"""
  )


def mouse(page, kind: str, x: float, y: float) -> None:
  page.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)


def click(page, selector: str) -> None:
  x, y, width, height = place(page, selector)
  for kind in ("mousePressed", "mouseReleased"):
    mouse(page, kind, x + width / 2, y + height / 2)


def test_the_mouse_drags_the_slider_and_opens_a_map(opened):
  x, y, width, height = place(opened, "#threshold")
  mouse(opened, "mousePressed", x + width / 2, y + height / 2)
  mouse(opened, "mouseMoved", x + 0.8 * width, y + height / 2)
  mouse(opened, "mouseReleased", x + 0.8 * width, y + height / 2)
  t = opened.evaluate("errsegReport.state().threshold")
  assert 0.7 < t < 0.9
  opened.wait_for(f"errsegReport.shownThreshold() === {t}")
  assert opened.evaluate("location.hash") == f"#t={t:g}"
  click(opened, "article [data-open=mask]")
  opened.wait_for("document.getElementById('viewer-title').textContent === 'image0'")
  click(opened, "#viewer [data-view=detail]")
  assert opened.evaluate("errsegReport.state().viewer.map") == "detail"
  keys = "Array.from(viewer.querySelectorAll('[data-key]')).filter((key) => key.checkVisibility())"
  shown = f"{keys}.map((key) => key.dataset.key)"
  opened.wait_for(f"String({shown}) === 'classes'")
  for view, key in (("error", ["error"]), ("mask", ["mask"]), ("image", []), ("truth", ["classes"])):
    click(opened, f"#viewer [data-view={view}]")
    opened.wait_for(
      f"document.querySelector('#viewer [data-view={view}]').getAttribute('aria-pressed') === 'true'"
    )
    assert opened.evaluate(shown) == key
  click(opened, "#close")
  opened.wait_for("errsegReport.state().viewer === null")
  assert opened.complaints == []


@pytest.mark.parametrize("kind", ["image", "truth"])
def test_the_viewer_shows_the_last_image_that_was_asked_for(opened, kind):
  """Those behind it are loaded neither by the browser nor by the page before, and keys may come faster."""
  opened.evaluate(f"document.querySelector('article [data-open={kind}]').click()")
  right = "viewer.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight' }))"
  opened.evaluate(f"for (let i = 0; i < 20; i++) {right}")
  opened.wait_for("document.getElementById('viewer-title').textContent === 'image20'")
  opened.evaluate("new Promise((resolve) => setTimeout(resolve, 50))")
  assert opened.evaluate("document.getElementById('viewer-title').textContent") == "image20"
  assert opened.complaints == []


@pytest.fixture
def prefer(page):
  """(scheme): what the reader's system asks for; afterwards nothing."""
  yield lambda scheme: page.send(
    "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
  )
  page.send("Emulation.setEmulatedMedia", features=[])


CUT = """Array.from(document.querySelectorAll("button, h1, h2, h3, p, figcaption, output, .key span, .key li"))
  .filter((e) => e.checkVisibility() && e.clientWidth && e.scrollWidth > e.clientWidth + 1)
  .map((e) => e.textContent)"""
"""What says more than its box shows."""


@pytest.mark.parametrize(
  ("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)]
)
def test_light_dark_and_a_phone_cut_nothing_off(page, prefer, report, scheme, width):
  page.complaints.clear()
  prefer(scheme)
  page.open(report.as_uri(), width, 1600)
  page.wait_for("errsegReport.state().items[0].flagged !== null")
  assert page.evaluate("document.documentElement.scrollWidth") <= width
  assert page.evaluate(CUT) == []
  shots = {"top": page.send("Page.captureScreenshot")["data"]}
  corner = np.asarray(Image.open(io.BytesIO(base64.b64decode(shots["top"]))).convert("L"))[2, 2]
  assert (corner > 200) == (scheme == "light")
  page.evaluate("document.querySelector('article [data-open=error]').click()")
  page.wait_for("document.querySelector('#viewer .readout').textContent !== ''")
  assert page.evaluate("viewer.scrollWidth <= viewer.clientWidth")
  assert page.evaluate(CUT) == []
  shots["viewer"] = page.send("Page.captureScreenshot")["data"]
  for name, shot in shots.items():
    if SHOTS:
      (pathlib.Path(SHOTS) / f"report_{name}_{scheme}_{width}.png").write_bytes(base64.b64decode(shot))
  assert page.complaints == []
