import dataclasses
import html as html_lib
import os
import re

import numpy as np
import pytest

from errseg_jax.metrics import errors, segmentation
from errseg_jax.report import html, plots
from errseg_jax.report.gallery import GalleryItem
from errseg_jax.structs import DatasetInfo

EVIL = "</script><script>window.pwned=1</script>"
INFO = DatasetInfo(
  "tiny", ("sky", f"road {EVIL}", "car $x$"), ((0, 114, 178), (128, 128, 128), (230, 159, 0))
)


def make_item(seed: int, name: str, reasons=("worst",)) -> GalleryItem:
  rng = np.random.default_rng(seed)
  truth = np.kron(rng.integers(0, 3, (4, 6)), np.ones((8, 8), int)).astype(np.uint8)
  semantic, detail = np.roll(truth, 2, 1), np.roll(truth, 1, 0)
  wrong = (semantic != truth) & (truth != 255)
  probability = np.clip(rng.normal(0.25 + 0.4 * wrong, 0.15), 0, 1).astype(np.float32)
  truth[:3] = 255
  valid = truth != 255
  accuracy = 100 * np.mean((semantic == truth)[valid])
  image = rng.integers(0, 256, (*truth.shape, 3), dtype=np.uint8)
  return GalleryItem(name, image, truth, semantic, detail, probability, accuracy, accuracy + 1, 80.0, reasons)


GALLERY = (make_item(0, f"first{EVIL}"), make_item(1, "second", ("gained", "best")))


def make_curves() -> dict:
  hist = np.zeros((2, 2, 4096), np.int64)
  confusion = np.zeros((2, 3, 3), np.int64)
  for item in GALLERY:
    valid = item.truth != 255
    p = np.clip(item.error_probability.astype(np.float64), 1e-6, 1 - 1e-6)
    z, wrong = np.log(p / (1 - p))[None], (item.semantic != item.truth)[None]
    hist += [np.asarray(errors.error_histogram(s, wrong, valid[None])[0], np.int64) for s in (z, 0.5 * z)]
    for i, labels in enumerate((item.semantic, item.detail)):
      confusion[i] += np.asarray(segmentation.confusion_matrix(item.truth, labels, 3))
  return {
    "histograms": {"error": hist[0], "max_probability": hist[1]},
    "confusion_semantic": confusion[0],
    "confusion_fused": confusion[1],
    "image_accuracy": np.array([[91.0, 88.0], [70.0, 74.0]]),
    "groups": ((0, 1),),
  }


def make_results(curves: dict) -> dict:
  semantic, fused = (
    segmentation.segmentation_scores(curves[f"confusion_{k}"], INFO.classes) for k in ("semantic", "fused")
  )
  hist, free = curves["histograms"].values()
  sweep = [errors.threshold_scores(hist, hist[1], t) for t in (0.1, 0.5)]
  return {
    "dataset": "tiny", "split": "val", "num_images": 2, "classes": list(INFO.classes), "seed": 0,
    "hardware": "cpu", "semantic": semantic, "detail": fused, "fused": fused, "control": semantic,
    "chosen": {"threshold": 0.5, "fusion": "soft", "on": "train", "candidates": []},
    "error": {
      **errors.error_scores(hist),
      "by_threshold": [{**row, "mIoU": 50.0} for row in sweep],
      "conventions": {"per_image": {"AUROC": 90.0}, "confidnet": {}},
      "baselines": {"max_probability": errors.error_scores(free)},
    },
    "image_level": {"mIoU_img": 50.0, "accuracy_mae": None, "accuracy_corr": 0.5},
    "versions": {"python": "3.11", "jax": EVIL},
    "speed": {"semantic_ms": 10.0, "error_ms": 1.0, "detail_ms": None, "image_size": [32, 48]},
  }  # fmt: skip


HISTORY = [
  {"stage": s, "step": i, "train/loss": 1 / (i + 1), "choose/mIoU": 50.0 + i, "train/lr": 1}
  for s in ("error", "detail")
  for i in range(5)
]


ISSUES = {
  "split": "train",
  "issues": [
    {"rank": i, "image": EVIL, "given": "sky", "predicted": "car", "pixels": 9, "score": 0.5}
    for i in range(1, 13)
  ],
}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
  path = tmp_path_factory.mktemp("report") / "report.html"
  curves = make_curves()
  config = {"note": EVIL, "lr": 0.1}
  html.write_report(path, make_results(curves), HISTORY, curves, GALLERY, INFO, config, ISSUES)
  return path


def test_user_text_is_escaped_everywhere(report):
  text = report.read_text("utf-8")
  assert EVIL not in text
  assert text.count("<script") == 2 + len(GALLERY)
  assert text.count(html_lib.escape(EVIL)) >= 4


def test_file_asks_for_nothing_from_the_network(report):
  text = report.read_text("utf-8")
  assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", text)
  assert "default-src 'none'" in text


def test_every_picture_has_a_text(report):
  text = report.read_text("utf-8")
  assert len(re.findall(r"<img ", text)) == len(re.findall(r'<img [^>]*alt="[^"]', text))
  assert len(re.findall(r"<canvas ", text)) == len(re.findall(r'<canvas [^>]*aria-label="', text))


def test_a_stage_that_was_scored_once_has_no_empty_plot():
  once = [{"stage": "error", "step": 9, "choose/mIoU": 50.0}]
  rows = [{"stage": "error", "step": i, "train/loss": 0.5} for i in (3, 6)]
  assert [p.caption for p in plots.training_curves([*rows, *once])] == ["Stage error: training loss."]
  assert len(plots.training_curves(HISTORY)) == 4


def test_headline_says_what_happened(report):
  text = report.read_text("utf-8")
  assert re.search(r"On 2 images the corrected labels are [\d.]+ mIoU (better|worse)", text)
  assert re.search(r"most (gained|lost): \S.{0,120} [+−]\d+\.\d\d", text)
  assert re.search(r"P\(error\) finds \d+ % of the errors in 10 % of the pixels", text)
  assert "Training the network on for as many steps" in text


def test_undefined_is_never_nan(report):
  assert not re.search(r">\s*nan|NaN,|NaN}", report.read_text("utf-8"))


def test_words_are_aligned_left_and_numbers_right(report):
  text = report.read_text("utf-8")
  head = re.search(r"<tr>(<th[^>]*>rank</th>.*?)</tr>", text)[1]
  assert re.findall(r'<th scope="col" class="words">([^<]*)</th>', head) == [
    "image",
    "annotated",
    "network says",
  ]
  row = text[text.index("network says") :].split("</tr>")[1]
  assert re.findall(r'<td class="words">([^<]*)</td>', row)[1:] == ["sky", "car"]
  assert re.findall(r"<td>([^<]*)</td>", row) == ["9", "0.5"]


def test_no_half_written_file_is_left(report, tmp_path, monkeypatch):
  assert [p.name for p in report.parent.iterdir()] == ["report.html"]
  target = tmp_path / "report.html"
  target.write_text("old")

  def fail(*_):
    raise OSError("disk full")

  monkeypatch.setattr(os, "replace", fail)
  curves = make_curves()
  with pytest.raises(OSError, match="disk full"):
    html.write_report(target, make_results(curves), [], curves, (), INFO, {})
  assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
  assert target.read_text() == "old"


def test_only_the_semantic_scores_are_required(tmp_path):
  results = make_results(make_curves())
  keep = ("dataset", "split", "num_images", "semantic")
  path = tmp_path / "report.html"
  html.write_report(path, {k: results[k] for k in keep}, [], {}, (), INFO, {})
  text = path.read_text("utf-8")
  assert 'id="gallery"' not in text
  assert 'id="classes"' in text


def test_error_ramp_darkens_evenly():
  ramp = plots.error_ramp().astype(float)
  luminance = ramp @ [0.2126, 0.7152, 0.0722]
  assert ramp.shape == (256, 3)
  assert np.all(np.diff(luminance) <= 0.5)
  assert luminance[0] > 240
  assert luminance[-1] < 60


def expected(item: GalleryItem, t: float) -> dict[str, float]:
  """What the page must show: P(error) in steps of 1/255, labelled pixels only."""
  mask = np.round(item.error_probability.astype(np.float64) * 255) / 255 > t
  fused = np.where(mask, item.detail, item.semantic)
  valid = item.truth != 255
  wrong = (item.semantic != item.truth) & valid
  return {
    "flagged": 100 * np.mean(mask[valid]),
    "accuracy": 100 * np.mean((fused == item.truth)[valid]),
    "precision": 100 * np.sum(mask & wrong) / np.sum(mask & valid),
    "recall": 100 * np.sum(mask & wrong) / np.sum(wrong),
  }


def open_gallery(page, report, fragment: str = "", **size) -> None:
  page.open(report.as_uri() + fragment, **size)
  page.wait_for("errsegReport.state().items.every((item) => item.flagged !== null)")


def check_gallery(page, t: float) -> None:
  page.wait_for(f"Math.abs(errsegReport.shownThreshold() - {t}) < 1e-12")
  items = page.evaluate("errsegReport.state().items")
  for item, shown in zip(GALLERY, items, strict=True):
    assert shown["name"] == item.name
    for name, value in expected(item, t).items():
      assert shown[name] == pytest.approx(value, abs=1e-9), name


@pytest.mark.parametrize(("fragment", "t"), [("", 0.5), ("#t=0.3", 0.3)])
def test_gallery_shows_what_numpy_computes(page, report, fragment, t):
  open_gallery(page, report, fragment)
  check_gallery(page, t)
  texts = page.evaluate("Array.from(document.querySelectorAll('.item .readout'), (p) => p.textContent)")
  for item, text in zip(GALLERY, texts, strict=True):
    assert f"→ {expected(item, t)['accuracy']:.1f} %" in text
  summary = page.evaluate("document.getElementById('summary').textContent")
  assert "2 of 2 images" in summary
  masks = [np.round(item.error_probability.astype(np.float64) * 255) / 255 > t for item in GALLERY]
  wrong = [(item.semantic != item.truth) & (item.truth != 255) for item in GALLERY]
  found = sum(np.sum(m & w) for m, w in zip(masks, wrong, strict=True))
  flagged = sum(np.sum(m & (item.truth != 255)) for m, item in zip(masks, GALLERY, strict=True))
  assert f"(precision {100 * found / flagged:.1f} %, recall {100 * found / np.sum(wrong):.1f} %)" in summary


def test_keyboard_moves_the_threshold_and_the_link(page, report):
  open_gallery(page, report)
  page.evaluate("document.getElementById('threshold').focus()")
  for kind in ("keyDown", "keyUp"):
    page.send("Input.dispatchKeyEvent", type=kind, key="ArrowLeft", windowsVirtualKeyCode=37)
  check_gallery(page, 0.495)
  assert page.evaluate("location.hash") == "#t=0.495"
  page.evaluate("document.getElementById('reset').click()")
  check_gallery(page, 0.5)


def coloured(labels: np.ndarray) -> np.ndarray:
  """Colours of a label map; chequered where there is none."""
  y, x = np.indices(labels.shape) // 4
  chequers = np.where((x + y) % 2, 200, 250)[..., None]
  palette = np.zeros((256, 3), int)
  palette[:3] = INFO.palette
  return np.where((labels == 255)[..., None], chequers, palette[labels])


def test_canvases_hold_the_label_maps(page, report):
  open_gallery(page, report)
  item, pixels = GALLERY[0], {}
  for name in ("truth", "fused"):
    values = page.evaluate(
      f"""(() => {{
        const canvas = document.querySelector("canvas[data-map={name}]");
        const all = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return Array.from(all.data);
      }})()"""
    )
    pixels[name] = np.array(values).reshape(*item.truth.shape, 4)[..., :3]
  mask = np.round(item.error_probability.astype(np.float64) * 255) / 255 > 0.5
  np.testing.assert_array_equal(pixels["truth"], coloured(item.truth))
  fused = np.where(mask, item.detail, item.semantic)
  np.testing.assert_array_equal(pixels["fused"], coloured(fused))


def test_names_run_no_script_and_a_phone_needs_no_sideways_scrolling(page, report):
  open_gallery(page, report, width=360, height=4000)
  assert page.evaluate("window.pwned === undefined")
  assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_an_image_out_of_view_is_not_decoded(page, report):
  page.open(report.as_uri(), height=300)
  page.evaluate("new Promise((resolve) => setTimeout(resolve, 100))")
  assert page.evaluate("errsegReport.state().items[1].flagged") is None
  page.evaluate("document.querySelectorAll('article')[1].scrollIntoView()")
  page.wait_for("errsegReport.state().items[1].flagged !== null")


def press(page, key: str, code: int = 0) -> None:
  for kind in ("keyDown", "keyUp"):
    page.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)


def viewer(page):
  return page.evaluate("errsegReport.state().viewer")


def large_pixels(page, shape) -> np.ndarray:
  values = page.evaluate(
    """(() => {
      const canvas = document.querySelector("#viewer canvas");
      return Array.from(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data);
    })()"""
  )
  return np.array(values).reshape(*shape, 4)[..., :3]


def test_viewer_goes_through_maps_and_images_by_keys(page, report):
  open_gallery(page, report)
  page.evaluate("document.querySelector('.item button[data-open=truth]').click()")
  page.wait_for("document.getElementById('viewer-title').textContent !== ''")
  assert viewer(page) == {"name": GALLERY[0].name, "map": "truth"}
  shape = GALLERY[0].truth.shape
  np.testing.assert_array_equal(large_pixels(page, shape), coloured(GALLERY[0].truth))
  press(page, "6")
  page.wait_for("errsegReport.state().viewer.map === 'detail'")
  page.wait_for("document.querySelector('#viewer canvas').getAttribute('aria-label').startsWith('6 detail')")
  np.testing.assert_array_equal(large_pixels(page, shape), coloured(GALLERY[0].detail))
  press(page, "ArrowRight", 39)
  page.wait_for(f"errsegReport.state().viewer.name === '{GALLERY[1].name}'")
  press(page, "ArrowRight", 39)  # there is no third one
  assert viewer(page) == {"name": GALLERY[1].name, "map": "detail"}
  press(page, "o")
  assert page.evaluate("document.getElementById('over-image').checked")
  page.evaluate("errsegReport.setThreshold(0.25)")
  page.wait_for("document.querySelector('#viewer .readout').textContent.includes('flagged')")
  press(page, "Escape", 27)
  page.wait_for("errsegReport.state().viewer === null")


def test_images_are_listed_by_reason(page, report):
  open_gallery(page, report)
  shown = "Array.from(document.querySelectorAll('article'), (a) => !a.hidden)"
  for reason, expected in {
    "worst": [True, False],
    "gained": [False, True],
    "best": [False, True],
    "all": [True, True],
  }.items():
    page.evaluate(f"document.querySelector('button[data-reason={reason}]').click()")
    assert page.evaluate(shown) == expected
  assert page.evaluate("document.querySelector('button[data-reason=lost]')") is None


def test_pages_of_500_images_open_at_once(page, tmp_path):
  """Under 2 s on idle cores; here three times that, as other tests run beside."""
  path, curves = tmp_path / "report.html", make_curves()
  many = [dataclasses.replace(make_item(i % 5, f"image{i}"), reasons=("worst",)) for i in range(500)]
  html.write_report(path, make_results(curves), HISTORY, curves, many, INFO, {})
  page.open(path.as_uri(), height=900)
  page.wait_for("errsegReport.state().items[0].flagged !== null")
  took = page.evaluate("performance.now()")
  print(f"500 images: shown after {took:.0f} ms")
  assert took < 6000
  assert page.evaluate("errsegReport.state().items.filter((item) => item.flagged !== null).length") < 20
  listed = "document.querySelectorAll('article:not([hidden])').length"
  assert page.evaluate(listed) == 24
  page.evaluate("document.getElementById('more').click()")
  assert page.evaluate(listed) == 48


def test_the_console_stays_empty(page, report):
  page.complaints.clear()
  open_gallery(page, report)
  page.evaluate("document.querySelector('.item button[data-open=mask]').click()")
  page.wait_for("document.querySelector('#viewer .readout').textContent !== ''")
  assert page.complaints == []
