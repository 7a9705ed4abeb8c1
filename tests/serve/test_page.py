"""The page in a browser: drop, slider, keys, webcam, errors, and that the console stays silent."""

import base64
import io
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from errseg_jax import assemble
from tests.serve.conftest import HOST

SHOTS = os.environ.get("SCREENSHOTS")  # a folder to look at them


@pytest.fixture
def opened(page, port):
  """The page, freshly loaded, wide."""
  page.complaints.clear()
  page.open(f"http://{HOST}:{port}/", 1280, 1000)
  page.wait_for("window.errsegPage")
  return page


@pytest.fixture
def photo(network):
  source = assemble.dataset(network.config).source("val")
  return source.images[0], source[0]["image"]


def drop(page, path):
  data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
  for kind in ("dragEnter", "dragOver", "drop"):
    page.send("Input.dispatchDragEvent", type=kind, x=300, y=200, data=data)


def dropped(page, path):
  drop(page, path)
  page.wait_for("errsegPage.state().shown && !errsegPage.state().busy")


def press(page, key, code=0):
  text = {"text": key} if len(key) == 1 else {}
  for kind in ("keyDown", "keyUp"):
    page.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code or ord(key), **text)


def state(page):
  return page.evaluate("errsegPage.state()")


def stage(page):
  """The pixels on the canvas, [H, W, 3]."""
  values = page.evaluate(
    """(() => {
      const { width, height } = document.getElementById("stage");
      const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
      copy.drawImage(document.getElementById("stage"), 0, 0);
      return [height, width, Array.from(copy.getImageData(0, 0, width, height).data)];
    })()"""
  )
  return np.array(values[2]).reshape(values[0], values[1], 4)[..., :3]


def show(page, view, key):
  press(page, key)
  page.wait_for(f"errsegPage.state().shown.drawn.view === '{view}'")


def silent(page):
  page.evaluate("new Promise((resolve) => setTimeout(resolve, 50))")
  assert page.complaints == []


def test_dropping_an_image_shows_what_the_network_says_of_it(opened, network, photo):
  path, image = photo
  dropped(opened, path)
  out, palette = network.predict(image), np.array(network.info.palette)
  assert state(opened)["view"] == "labels"
  np.testing.assert_array_equal(stage(opened), palette[out.labels])
  show(opened, "semantic", "2")
  np.testing.assert_array_equal(stage(opened), palette[out.semantic_labels])
  legend = {entry["name"]: entry["share"] for entry in state(opened)["shown"]["legend"]}
  wanted = {name: 100 * np.mean(out.semantic_labels == i) for i, name in enumerate(network.info.classes)}
  assert legend == pytest.approx({name: share for name, share in wanted.items() if share})
  show(opened, "image", "1")
  assert np.abs(stage(opened) - image).mean() < 12  # a JPEG of noise
  headline = opened.evaluate("document.getElementById('headline').textContent")
  assert "48 × 32" in headline
  assert f"{100 * (1 - out.error_probability.mean()):.1f} %" in headline
  steps = opened.evaluate("Array.from(document.querySelectorAll('#times th'), (e) => e.textContent)")
  assert [step.partition(",")[0] for step in steps] == [
    "decode",
    "network",
    "encode",
    "transfer and page",
    "total",
  ]
  silent(opened)


def test_the_slider_moves_mask_and_labels(opened, network, photo):
  path, image = photo
  dropped(opened, path)
  out, palette = network.predict(image), np.array(network.info.palette)
  error = np.round(255 * out.error_probability.astype(np.float64)) / 255
  t = round(float(np.median(error)) / 0.005) * 0.005
  for name in ("slider", "error"):
    opened.evaluate(f"document.querySelector('[data-view={name}]').click()")
    opened.evaluate(
      f"""(() => {{
        const slider = document.getElementById("threshold");
        slider.value = "{t - 0.005}";
        slider.dispatchEvent(new Event("input"));
        slider.focus();
      }})()"""
    )
    press(opened, "ArrowRight", 39)
    opened.wait_for(f"Math.abs(errsegPage.state().shown.drawn.threshold - {t}) < 1e-9")
    opened.wait_for(f"errsegPage.state().shown.drawn.view === '{name}'")
    mask = error > t
    assert 5 < 100 * mask.mean() < 95
    if name == "slider":
      fused = np.where(mask, out.detail_labels, out.semantic_labels)
      np.testing.assert_array_equal(stage(opened), palette[fused])
      assert state(opened)["shown"]["changed"] == pytest.approx(100 * np.mean(fused != out.semantic_labels))
    else:
      blue = stage(opened)
      np.testing.assert_array_equal(blue[..., 2] > blue[..., 0], mask)
    assert state(opened)["shown"]["over"] == pytest.approx(100 * mask.mean())
    summary = opened.evaluate("document.getElementById('summary').textContent")
    assert f"{100 * mask.mean():.1f} % of the pixels over t" in summary
    opened.evaluate("document.getElementById('reset').click()")
  opened.wait_for(f"errsegPage.state().shown.drawn.threshold === {network.choice.threshold}")
  silent(opened)


def test_a_pixel_is_read_and_labels_lie_over_the_image(opened, network, photo):
  path, image = photo
  dropped(opened, path)
  out, names = network.predict(image), network.info.classes
  box = opened.evaluate(
    """(() => {
      document.getElementById("stage").scrollIntoView({ behavior: "instant" });
      const { x, y, width, height } = document.getElementById("stage").getBoundingClientRect();
      return [x, y, width, height];
    })()"""
  )
  x, y = (box[0] + (30.5 / 48) * box[2], box[1] + (20.5 / 32) * box[3])
  opened.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
  opened.wait_for("document.getElementById('probe').textContent.startsWith('x ')")
  text = opened.evaluate("document.getElementById('probe').textContent")
  assert text.startswith(f"x 30, y 20: network {names[out.semantic_labels[20, 30]]}")
  assert f"corrected {names[out.labels[20, 30]]}" in text
  assert text.endswith(f"{round(255 * float(out.error_probability[20, 30])) / 255:.2f}")
  plain = stage(opened)
  show(opened, "image", "1")
  picture = stage(opened)
  show(opened, "labels", "4")
  opened.evaluate("document.getElementById('blend').click()")
  opened.evaluate("new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))")
  assert np.abs(stage(opened) - (plain + picture) / 2).max() <= 1
  silent(opened)


def test_errors_are_shown_and_the_next_image_clears_them(opened, photo, tmp_path):
  (tmp_path / "notes.txt").write_text("hello")
  drop(opened, tmp_path / "notes.txt")
  opened.wait_for("errsegPage.state().error")
  assert state(opened)["error"].startswith("notes.txt: this is no image")
  assert state(opened)["shown"] is None
  assert not opened.evaluate("document.getElementById('shrink').checkVisibility()")
  dropped(opened, photo[0])
  assert state(opened)["error"] == ""
  refusals = [c["entry"]["text"] for c in opened.complaints]  # that a browser writes of every refusal
  assert len(refusals) == 1
  assert "400" in refusals[0]


def test_an_image_over_the_limit_is_shrunk_on_request(opened, tmp_path):
  Image.fromarray(np.full((1000, 1500, 3), 90, np.uint8)).save(tmp_path / "large.png")
  drop(opened, tmp_path / "large.png")
  opened.wait_for("errsegPage.state().error")
  assert "1500x1000, 1.5 megapixels; the limit" in state(opened)["error"]
  opened.evaluate("document.getElementById('longest').value = '512'")
  dropped(opened, tmp_path / "large.png")
  assert (state(opened)["shown"]["height"], state(opened)["shown"]["width"]) == (341, 512)
  assert opened.evaluate("document.getElementById('longest').value") == "512"


def test_a_file_over_the_limit_is_not_even_sent(opened, tmp_path):
  (tmp_path / "large.png").write_bytes(bytes(1_100_000))
  drop(opened, tmp_path / "large.png")
  opened.wait_for("errsegPage.state().error")
  assert state(opened)["error"] == "large.png: the file has 1.1 MB; the limit is 1 MB"
  silent(opened)


def test_examples_and_the_file_chooser_lead_to_the_same(opened, photo):
  opened.evaluate("document.querySelector('#examples button').click()")
  opened.wait_for("errsegPage.state().shown && !errsegPage.state().busy")
  first = stage(opened)
  assert state(opened)["shown"]["name"] == pathlib.Path(photo[0]).stem
  document = opened.send("DOM.getDocument")["root"]["nodeId"]
  node = opened.send("DOM.querySelector", nodeId=document, selector="#file")["nodeId"]
  opened.send("DOM.setFileInputFiles", nodeId=node, files=[str(photo[0])])
  opened.wait_for(f"errsegPage.state().shown.name === '{pathlib.Path(photo[0]).name}'")
  np.testing.assert_array_equal(stage(opened), first)
  silent(opened)


def test_the_webcam_gives_a_frame_and_one_after_another(opened):
  opened.evaluate("document.getElementById('longest').value = '512'")
  opened.evaluate("document.getElementById('camera').click()")
  opened.wait_for("document.getElementById('live').checkVisibility()")
  opened.evaluate("document.getElementById('shoot').click()")
  opened.wait_for("errsegPage.state().shown && !errsegPage.state().busy")
  assert state(opened)["shown"]["width"] == 512
  opened.evaluate("document.getElementById('continuous').click()")
  opened.wait_for("/frames a second/.test(document.getElementById('status').textContent)")
  opened.evaluate("document.getElementById('off').click()")
  opened.wait_for("!errsegPage.state().busy")
  assert opened.evaluate("document.getElementById('video').srcObject") is None
  silent(opened)


@pytest.mark.parametrize(
  ("name", "words"), [("NotFoundError", "no webcam"), ("NotAllowedError", "was not allowed")]
)
def test_no_webcam_is_said_in_one_line(opened, name, words):
  opened.evaluate(
    f"navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', '{name}')), 1"
  )
  opened.evaluate("document.getElementById('camera').click()")
  opened.wait_for("errsegPage.state().error")
  assert words in state(opened)["error"]
  silent(opened)


def test_a_server_that_has_ended_is_said(opened, photo):
  opened.evaluate("window.fetch = () => Promise.reject(new TypeError('Failed to fetch')), 1")
  drop(opened, photo[0])
  opened.wait_for("errsegPage.state().error")
  assert "still running?" in state(opened)["error"]


def test_downloads_hold_class_ids_in_their_colours(opened, network):
  ids = np.arange(3 * 5, dtype=np.uint8).reshape(3, 5) % 3
  palette = [list(colour) for colour in network.info.palette]
  for colours in (palette, None):
    encoded = opened.evaluate(
      f"""errsegPage.png(Uint8Array.from({ids.ravel().tolist()}), 3, 5, {"null" if colours is None else colours})
        .then((blob) => blob.arrayBuffer()).then((b) => btoa(String.fromCharCode(...new Uint8Array(b))))"""
    )
    image = Image.open(io.BytesIO(base64.b64decode(encoded)))
    assert image.mode == ("L" if colours is None else "P")
    np.testing.assert_array_equal(np.asarray(image), ids)
    if colours:
      np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.array(palette)[ids])


@pytest.mark.parametrize(
  ("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)]
)
def test_light_dark_and_a_phone_need_no_sideways_scrolling(page, port, photo, scheme, width):
  page.complaints.clear()
  page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
  page.open(f"http://{HOST}:{port}/", width, 1600)
  page.wait_for("window.errsegPage")
  dropped(page, photo[0])
  assert page.evaluate("document.documentElement.scrollWidth") <= width
  cut = """Array.from(document.querySelectorAll("button, h2, p, td, th, li span"))
    .filter((e) => e.checkVisibility() && e.clientWidth && e.scrollWidth > e.clientWidth + 1)
    .map((e) => e.textContent)"""
  assert page.evaluate(cut) == []
  shot = base64.b64decode(page.send("Page.captureScreenshot")["data"])
  corner = np.asarray(Image.open(io.BytesIO(shot)).convert("L"))[2, 2]
  assert (corner > 200) == (scheme == "light")
  if SHOTS:
    (pathlib.Path(SHOTS) / f"tiny_{scheme}_{width}.png").write_bytes(shot)
  silent(page)
