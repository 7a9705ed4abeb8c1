"""Networks that are not ours, as frozen semantic branches: functions and exported programs, end to end."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import errseg_jax
from errseg_jax.adapters import Network, from_export, from_function, normalised
from errseg_jax.adapters.network import Adapted, as_features, given_weights
from errseg_jax.assemble import with_defaults
from errseg_jax.cli import main
from errseg_jax.errors import UserError
from errseg_jax.structs import Features
from errseg_jax.train.trainer import Trainer

MODULE = '''
import jax
import jax.numpy as jnp

from errseg_jax.adapters import from_function, normalised
from errseg_jax.structs import Features

COLOURS = jnp.array([(60, 60, 60), (170, 60, 50), (60, 160, 70)], jnp.float32)


def logits(images):
  """Distance to the colour of each class, at a quarter of the size."""
  x = images.astype(jnp.float32)
  x = jax.image.resize(x, (x.shape[0], x.shape[1] // 4, x.shape[2] // 4, 3), "linear")
  return -((x[..., None, :] - COLOURS.reshape(1, 1, 1, 3, 3)) ** 2).sum(-1) / 2000


def plain():
  return logits


def weighted(scale=1.0):
  weights = {"colours": COLOURS, "scale": jnp.float32(scale)}

  def fn(weights, x):
    x = jax.image.resize(x, (x.shape[0], x.shape[1] // 4, x.shape[2] // 4, 3), "linear")
    scores = -((x[..., None, :] - weights["colours"].reshape(1, 1, 1, 3, 3)) ** 2).sum(-1)
    return {"scores": weights["scale"] * scores / 2000, "map": x}

  def features(out):
    return Features(logits=out["scores"], low=(out["map"],), strides=(4,))

  return from_function(
    fn, 3, weights=weights, preprocess=normalised((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), features=features
  )


def number():
  return 7


def broken():
  raise ValueError("no weights\\nhere")
'''


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
  """A module of the user's own."""
  folder = tmp_path_factory.mktemp("code")
  (folder / "mine.py").write_text(MODULE)
  sys.path.insert(0, str(folder))
  yield "mine"
  sys.path.remove(str(folder))
  sys.modules.pop("mine", None)


def config_of(tiny_config, adapter, **changes):
  return with_defaults(tiny_config(order=("detail", "error"), segmenter__adapter=adapter, **changes))


@pytest.fixture(scope="module")
def run(mine, tiny_config, tmp_path_factory):
  """(workdir, trainer) of branches on the network with weights."""
  adapter = {"name": "function", "factory": "mine:weighted", "options": {"scale": 2.0}}
  workdir = tmp_path_factory.mktemp("adapted") / "run"
  trainer = Trainer(config_of(tiny_config, adapter, error_branch__prior="detail"), workdir)
  trainer.run()
  return workdir, trainer


def test_evaluate_and_predict_see_the_network_as_it_is(run, capsys):
  workdir, trainer = run
  assert main(["evaluate", f"--workdir={workdir}"]) == 0
  found = json.loads((workdir / "results.json").read_text())
  network, source = errseg_jax.load(str(workdir)), trainer.dataset.source("val")
  table = np.zeros((3, 3), np.int64)
  for index in range(len(source)):
    sample = source[index]
    size = sample["label"].shape
    scores = np.asarray(sys.modules["mine"].logits(sample["image"][None]))
    want = np.asarray(jax.image.resize(scores, (1, *size, 3), "linear").argmax(-1))[0]
    np.testing.assert_array_equal(network.predict(sample["image"]).semantic_labels, want)
    valid = sample["label"] != 255
    np.add.at(table, (sample["label"][valid], want[valid]), 1)
  iou = np.diagonal(table) / (table.sum(0) + table.sum(1) - np.diagonal(table))
  assert found["semantic"]["mIoU"] == pytest.approx(100 * iou.mean(), abs=1e-6)


def test_weights_are_arguments_and_come_from_the_factory(run):
  workdir, trainer = run
  variables = errseg_jax.load(str(workdir)).variables
  assert float(variables["params"]["segmenter"]["scale"]) == 2.0
  network = trainer.model.segmenter.network
  shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in network.weights.items()}
  assert "170" not in jax.jit(network.function).lower(shapes, jnp.zeros((1, 8, 8, 3))).as_text()


def test_a_factory_may_return_a_function_of_images(mine, tiny_config, tmp_path):
  model = Trainer(
    config_of(tiny_config, {"name": "function", "factory": "mine:plain"}), tmp_path / "run"
  ).model
  image = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), np.uint8)
  found = model.segmenter.apply({"params": {}}, image)
  np.testing.assert_allclose(found.logits, sys.modules["mine"].logits(image), rtol=1e-6)


@pytest.mark.parametrize(
  ("adapter", "message"),
  [
    ({"name": "function", "factory": "mine"}, "write it as package.module:function"),
    ({"name": "function", "factory": "nowhere_at_all:f"}, "No module named 'nowhere_at_all'"),
    ({"name": "function", "factory": "mine:missing"}, "mine has no missing"),
    ({"name": "function", "factory": "mine:broken"}, "ValueError: no weights here"),
    ({"name": "function", "factory": "mine:number"}, "returns int: it must be a function"),
    (
      {"name": "function", "factory": "mine:plain", "options": {"size": 3}},
      "unexpected keyword argument 'size'",
    ),
    ({"name": "tensorflow"}, "'tensorflow' is unknown; known: function, export, torch, keras, saved, onnx"),
    ({"name": "export", "path": "nowhere.bin"}, "No such file"),
  ],
)
def test_what_cannot_be_made_is_one_line(mine, tiny_config, tmp_path, adapter, message):
  with pytest.raises(UserError) as error:
    Trainer(config_of(tiny_config, adapter), tmp_path / "run")
  assert message in " ".join(str(error.value).split())
  assert not (tmp_path / "run").exists()


def test_a_stage_of_its_own_is_left_out_and_crossfit_refused(mine, tiny_config, tmp_path):
  adapter = {"name": "function", "factory": "mine:plain"}
  config = config_of(tiny_config, adapter)
  config.order = ("semantic", "detail", "error")
  assert [stage.name for stage in Trainer(config, tmp_path / "run").stages] == ["detail", "error"]
  config.splits.error_source = "crossfit"
  with pytest.raises(UserError, match="a given one"):
    Trainer(config, tmp_path / "run")


def call(network, image):
  module = Adapted(network)
  return module.apply({"params": given_weights(module)}, image)


def test_outputs_become_features_or_are_refused():
  image = np.zeros((2, 8, 12, 3), np.uint8)
  network = from_function(lambda x: jnp.ones((2, 4, 6, 5), jnp.bfloat16) * x.mean(), 5)
  assert call(network, image).logits.dtype == jnp.float32
  binary = call(from_function(lambda x: x[..., :1] * 0.5 - 3, 2), image)
  np.testing.assert_array_equal(binary.logits, np.broadcast_to([0.0, -3.0], (2, 8, 12, 2)))
  low = call(from_function(lambda x: Features(x.astype(jnp.float32), low=(x,), strides=(1,)), 3), image)
  assert low.strides == (1,)
  for shape, hint in (
    ((2, 5, 4, 6), "put the classes last"),
    ((2, 4, 6, 4), "[2, h, w, 5]"),
    ((2, 4), "(2, 4)"),
  ):
    with pytest.raises(UserError) as error:
      as_features(jnp.zeros(shape), 5, image.shape)
    assert hint in str(error.value)


def test_normalisation_is_that_of_the_field():
  image = np.random.default_rng(0).integers(0, 256, (1, 4, 5, 3), np.uint8)
  x = normalised((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), channels_first=True)(image)
  want = (image.astype(np.float32) - [1, 2, 3]) / [4, 5, 6]
  np.testing.assert_allclose(x, want.transpose(0, 3, 1, 2), rtol=1e-6)


def exported(weights=False):
  def fn(weights, images):
    return jnp.stack([images.mean(-1) * weights["w"], images[..., 0] * 1.0], -1)

  batch, height, width = export.symbolic_shape("b, h, w")
  images = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8)
  w = {"w": jax.ShapeDtypeStruct((), jnp.float32)}
  if weights:
    return export.export(jax.jit(fn))(w, images).serialize()
  return export.export(jax.jit(lambda x: fn({"w": jnp.float32(3)}, x)))(images).serialize()


def test_exported_programs_run_at_any_size(tmp_path):
  image = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), np.uint8)
  want = np.stack([image.mean(-1) * 3, image[..., 0]], -1)
  for network in (from_export(exported(), 2), from_export(exported(True), 2, weights={"w": np.float32(3)})):
    np.testing.assert_allclose(call(network, image).logits, want, rtol=1e-6)
    np.testing.assert_allclose(call(network, image[:1, :2]).logits, want[:1, :2], rtol=1e-6)


@pytest.mark.parametrize("blob", [b"", b"nothing", exported()[:100]])
def test_what_is_no_exported_program_is_one_line(blob):
  with pytest.raises(UserError, match=r"is no function of jax\.export"):
    from_export(blob, 2)
  with pytest.raises(UserError, match="takes 2 arrays"):
    from_export(exported(True), 2)


def test_an_exported_file_trains_branches(tiny_config, tmp_path):
  (tmp_path / "net.bin").write_bytes(exported())
  adapter = {"name": "export", "path": str(tmp_path / "net.bin")}
  changes = {
    "data__num_classes": 2,
    "data__class_names": ("a", "b"),
    "data__label_map": {0: 0, 1: 1, 2: 1, 255: 255},
  }
  config = config_of(tiny_config, adapter, **changes)
  Trainer(config, tmp_path / "run").run()
  assert isinstance(Trainer(config, tmp_path / "run").model.segmenter.network, Network)
  assert main(["evaluate", f"--workdir={tmp_path / 'run'}"]) == 0
