"""ONNX and Keras networks as given ones, against what their own runtimes say."""

import os
import sys

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import numpy as np
import pytest

from errseg_jax.adapters import normalised
from errseg_jax.adapters.host import OnnxAdapter
from errseg_jax.adapters.network import Adapted, given_weights
from errseg_jax.assemble import with_defaults
from errseg_jax.errors import UserError
from errseg_jax.prepare.extract import extract
from errseg_jax.train.trainer import Trainer

WEIGHTS = np.random.default_rng(0).normal(0, 0.3, (3, 3, 3, 3)).astype(np.float32)  # [out, in, h, w]


@pytest.fixture
def onnx_file(tmp_path):
  """A convolution to three classes at half the size."""
  onnx = pytest.importorskip("onnx")
  pytest.importorskip("onnxruntime")
  helper, kind = onnx.helper, onnx.TensorProto.FLOAT
  node = helper.make_node("Conv", ["images", "w"], ["logits"], strides=[2, 2], pads=[1, 1, 1, 1])
  given = helper.make_tensor_value_info("images", kind, [1, 3, "h", "w"])
  out = helper.make_tensor_value_info("logits", kind, [1, 3, "h2", "w2"])
  graph = helper.make_graph([node], "net", [given], [out], [onnx.numpy_helper.from_array(WEIGHTS, "w")])
  model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
  onnx.save(model, tmp_path / "net.onnx")
  return tmp_path / "net.onnx"


def by_jax(image):
  x = normalised(channels_first=True)(image[None])
  z = jax.lax.conv_general_dilated(x, WEIGHTS, (2, 2), ((1, 1), (1, 1)))
  return np.asarray(z)[0].transpose(1, 2, 0)


def test_an_onnx_file_gives_what_its_graph_says(onnx_file):
  image = np.random.default_rng(1).integers(0, 256, (32, 48, 3), np.uint8)
  np.testing.assert_allclose(OnnxAdapter(str(onnx_file)).scorer()(image), by_jax(image), atol=1e-4)


def test_an_onnx_network_trains_branches_by_its_saved_scores(onnx_file, tiny_config, tmp_path):
  adapter = {"name": "onnx", "path": str(onnx_file)}
  config = with_defaults(tiny_config(order=("detail", "error"), segmenter__adapter=adapter))
  with pytest.raises(UserError, match="errseg data extract"):
    Trainer(config, tmp_path / "run")
  extract(config, None, "", tmp_path / "scores", 2)
  saved = {"name": "saved", "folder": str(tmp_path / "scores")}
  config = with_defaults(tiny_config(order=("detail", "error"), segmenter__adapter=saved))
  Trainer(config, tmp_path / "run").run()
  assert (tmp_path / "run" / "choice.json").exists()


@pytest.mark.parametrize(("content", "message"), [(None, "No such file"), (b"nothing", "net.onnx")])
def test_what_is_no_onnx_network_is_one_line(tmp_path, content, message):
  pytest.importorskip("onnxruntime")
  path = tmp_path / "net.onnx"
  if content:
    path.write_bytes(content)
  with pytest.raises(UserError) as error:
    OnnxAdapter(str(path)).scorer()
  assert message in str(error.value)


MODULE = """
import keras


def model(classes=3):
  images = keras.Input((None, None, 3))
  x = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(images)
  x = keras.layers.BatchNormalization()(x)
  return keras.Model(images, keras.layers.Conv2D(classes, 1, activation="softmax")(x))
"""


def test_a_keras_model_is_a_network_and_trains_branches(tiny_config, tmp_path, monkeypatch):
  keras = pytest.importorskip("keras")
  if keras.config.backend() != "jax":
    pytest.skip("Keras was loaded for another backend")
  from errseg_jax.adapters import from_keras

  (tmp_path / "keras_net.py").write_text(MODULE)
  monkeypatch.syspath_prepend(str(tmp_path))
  import keras_net

  model = keras_net.model()
  module = Adapted(from_keras(model, 3, values="probabilities"))
  image = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)
  logits = module.apply({"params": given_weights(module)}, image).logits
  with jax.numpy_rank_promotion("allow"):
    want = model(np.asarray(normalised()(image)), training=False)
  np.testing.assert_allclose(jax.nn.softmax(logits), want, atol=1e-5)
  adapter = {"name": "keras", "factory": "keras_net:model", "values": "probabilities"}
  keras.utils.set_random_seed(0)
  config = with_defaults(tiny_config(order=("detail", "error"), segmenter__adapter=adapter))
  Trainer(config, tmp_path / "run").run()
  assert (tmp_path / "run" / "choice.json").exists()
  sys.modules.pop("keras_net")
