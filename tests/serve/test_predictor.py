"""What an answer holds is what the network says."""

import dataclasses
import gzip
import io

import jax
import numpy as np
import pytest
from PIL import Image

from errseg_jax.data.images import write_png
from errseg_jax.errors import UserError
from errseg_jax.predict import predict_file
from errseg_jax.serve import predictor as predictor_module
from errseg_jax.serve.page import make_page
from errseg_jax.serve.predictor import Predictor
from errseg_jax.serve.server import ready
from errseg_jax.serve.uploads import Limits
from tests.serve.conftest import HOST, LIMITS, unpacked

IMAGE = np.random.default_rng(1).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def content_of(image, tmp_path):
  write_png(tmp_path / "image.png", image)
  return (tmp_path / "image.png").read_bytes()


def check(body, image, out):
  told, planes, jpeg = unpacked(body)
  assert (told["height"], told["width"]) == image.shape[:2]
  np.testing.assert_array_equal(planes["semantic"], out.semantic_labels)
  np.testing.assert_array_equal(planes["detail"], out.detail_labels)
  np.testing.assert_array_equal(planes["labels"], out.labels)
  np.testing.assert_allclose(planes["error"] / 255, out.error_probability, atol=0.5 / 255 + 1e-6)
  assert told["expected_accuracy"] == pytest.approx(100 * (1 - np.mean(out.error_probability)), abs=1e-3)
  assert np.asarray(Image.open(io.BytesIO(jpeg))).shape == image.shape


def test_the_maps_are_those_of_predict(client, network, tmp_path):
  answer = client.post("/predict", content=content_of(IMAGE, tmp_path))
  check(answer.content, IMAGE, network.predict(IMAGE))
  steps = dict(part.split(";dur=") for part in answer.headers["Server-Timing"].split(", "))
  assert list(steps) == ["decode", "network", "encode"]
  assert all(float(time) > 0 for time in steps.values())


def test_a_run_of_smaller_samples_sees_images_as_predict_does(network, tmp_path):
  config = network.config.copy_and_resolve_references()
  config.data.downscale = 2
  smaller = dataclasses.replace(network, config=config)
  big = np.repeat(np.repeat(IMAGE, 2, 0), 2, 1)
  answer = Predictor(smaller, LIMITS).answer(content_of(big, tmp_path))
  check(gzip.decompress(answer.body), big, predict_file(smaller, big))


def test_the_first_image_of_a_size_says_that_it_was_compiled_for(network, tmp_path):
  predictor, content = Predictor(network, LIMITS), content_of(IMAGE, tmp_path)
  assert not predictor.compiled(32, 48)
  told = [unpacked(gzip.decompress(predictor.answer(content).body))[0]["compiled"] for _ in range(2)]
  assert told == [True, False]
  assert predictor.compiled(32, 48)
  assert predictor.compiled(31, 47)  # the same bucket
  assert not predictor.compiled(32, 400)


def test_programs_of_many_sizes_are_not_kept_for_ever(network, monkeypatch):
  cleared = []
  monkeypatch.setattr(predictor_module, "MAX_SIZES", 2)
  monkeypatch.setattr(predictor_module, "predict_file", lambda network, image: None)
  monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(1))
  predictor = Predictor(network, LIMITS)
  for width in (16, 100, 16, 200, 16):
    predictor.predict(np.zeros((16, width, 3), np.uint8))
  assert len(cleared) == 1
  assert not predictor.compiled(16, 100)
  assert predictor.compiled(16, 200)


def test_an_image_beyond_the_memory_is_refused_in_words(network, monkeypatch):
  def fail(network, image):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory allocating 1 bytes")

  monkeypatch.setattr(predictor_module, "predict_file", fail)
  with pytest.raises(UserError, match="not enough memory for an image of 48x32"):
    Predictor(network, LIMITS).predict(IMAGE)


def test_the_page_shows_what_the_run_has(network):
  whole = make_page(network, "tiny", [], LIMITS)
  assert all(f'data-view="{name}"' in whole for name in ("image", "semantic", "error", "labels", "slider"))
  alone = make_page(dataclasses.replace(network, branches=()), "tiny", [], LIMITS)
  assert 'data-view="semantic"' in alone
  assert 'data-view="slider"' not in alone
  assert 'data-view="labels"' not in alone
  assert "trained no detail branch" in alone
  assert "1 − max probability of the network stands in" in alone
  assert "trained no" not in whole


def test_names_are_escaped(network):
  evil = "</script><script>window.pwned=1</script>"
  info = dataclasses.replace(network.info, classes=(evil, *network.info.classes[1:]))
  page = make_page(dataclasses.replace(network, info=info), evil, [], LIMITS)
  assert evil not in page
  assert page.count("<script") == 2


def test_a_network_of_saved_scores_is_refused(network, monkeypatch, trained):
  class Saved:
    image_channels = 6

  saved = dataclasses.replace(network, model=Saved())
  monkeypatch.setattr("errseg_jax.serve.server.load", lambda *_: saved)
  with pytest.raises(UserError, match="class scores of each image in files"):
    ready(network.config, trained, HOST, Limits())


def test_a_run_whose_data_are_gone_is_served_without_examples(network, trained):
  config = network.config.copy_and_resolve_references()
  config.data.root = "/nowhere"
  assert ready(config, trained, HOST, Limits()) is not None
