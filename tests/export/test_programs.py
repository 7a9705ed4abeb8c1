"""Every kind of network as a program of jax.export: written, read back by the example alone, and compared."""

import dataclasses
import json
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax import export as jax_export
from safetensors.numpy import load_file

from errseg_jax import assemble
from errseg_jax import config as configs
from errseg_jax.adapters import Adapted, Network
from errseg_jax.assemble import with_defaults
from errseg_jax.errors import UserError
from errseg_jax.export.check import check
from errseg_jax.export.command import write
from errseg_jax.export.example import Model
from errseg_jax.export.program import Program, exportable
from errseg_jax.export.sizes import Images, scene
from errseg_jax.inference.choice import Choice
from errseg_jax.inference.network import TrainedNetwork
from errseg_jax.train.given import abstract_variables
from errseg_jax.train.stages import plan, trained_branches

SIZE = (32, 64)
STACKED = ("semantic", "subnets", "detail", "error")

MODULE = """
import jax
import jax.numpy as jnp

from errseg_jax.adapters import from_function

COLOURS = jnp.array([(60, 60, 60), (170, 60, 50), (60, 160, 70)], jnp.float32)


def logits(weights, images):
  x = images.astype(jnp.float32)[:, ::4, ::4]
  return -((x[..., None, :] - weights["colours"].reshape(1, 1, 1, 3, 3)) ** 2).sum(-1) / 2000


def calling_back():
  def host(images):
    like = jax.ShapeDtypeStruct((*images.shape[:3], 3), jnp.float32)
    return jax.pure_callback(lambda x: x.astype("float32"), like, images, vmap_method="sequential")

  return host


def weighted():
  return from_function(logits, 3, weights={"colours": COLOURS, "never.read": jnp.ones(7)})
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
  """A module of the user's own."""
  (tmp_path / "code").mkdir()
  (tmp_path / "code" / "mine.py").write_text(MODULE)
  monkeypatch.syspath_prepend(str(tmp_path / "code"))
  yield "mine"
  sys.modules.pop("mine", None)


def network_of(config, **choice):
  """A network as it is loaded from a workdir, its weights at random."""
  info = assemble.dataset(config).info
  model = assemble.model(config, info.num_classes)
  rng = np.random.default_rng(0)
  flat = traverse_util.flatten_dict(abstract_variables(model))

  def draw(path, like):
    x = rng.normal(0, 0.3, like.shape).astype(like.dtype)
    return jnp.asarray(np.abs(x) + 0.5 if path[-1] == "var" else x)

  variables = traverse_util.unflatten_dict({path: draw(path, like) for path, like in flat.items()})
  if config.segmenter.adapter:
    given = {name: jnp.asarray(x) for name, x in model.segmenter.network.weights.items()}
    variables["params"] = {**variables["params"], "segmenter": given}
  branches = trained_branches(plan(config))
  return TrainedNetwork(
    config, info, model, {"batch_stats": {}, **variables}, Choice(**choice), branches, assemble.crf(config)
  )


def images(count=1):
  rng = np.random.default_rng(1)
  return Images({SIZE: [scene(rng, 30, 50) for _ in range(count)]}, "generated images")


def written(folder, network):
  """The folder, checked, its card, and what the example says of an image."""
  folder.mkdir()
  network = exportable(network)
  content = write(folder, network, [SIZE])
  assert check(folder, network, images()) < 1e-5
  out = Model(folder).predict(images().by_size[SIZE][0])
  assert {x.shape for x in out.values()} == {(30, 50)}
  assert [out[name].dtype for name in content["outputs"]] == [
    np.dtype(entry["dtype"]) for entry in content["outputs"].values()
  ]
  return content, out


KINDS = {
  "error and detail": ({}, {"fusion": "gate", "gate": (0.1, -0.2, 0.2, 0.1, 0.5, -0.4)}),
  "calibrated by knots": (
    {"error_branch__prior": "detail", "order": ("semantic", "detail", "error")},
    {"fusion": "mask", "knots": ((-2.0, -1.0), (1.0, 3.0))},
  ),
  "segmenter alone": ({"order": ("semantic",)}, {}),
  "error alone": ({"order": ("semantic", "error"), "dtype": "bfloat16"}, {}),
  "detail alone": ({"order": ("semantic", "detail")}, {"fusion": "mean"}),
  "sparse": ({"sparse__threshold": 0.3, "sparse__tile": 8}, {"fusion": "soft"}),
  "subnets": ({"order": STACKED, "groups__named": (("ground", "sign"),)}, {"fusion": "soft"}),
  "guided, with a CRF": (
    {"order": ("semantic", "guided", "detail", "error")}
    | {"crf__iterations": 2, "crf__radius": 3, "crf__alpha": 2.0, "crf__lam": 1.0},
    {"fusion": "soft"},
  ),
  "layer cascade": (
    {"detail_branch": {"name": "layer_cascade", "features": (4, 4, 4)}, "detail_loss__weights": "cascade"},
    {"fusion": "detail"},
  ),
  "views": ({"views__mirror": True, "views__scales": (1.0, 0.75)}, {"fusion": "soft"}),
  "doubtful tiles again": (
    {"views__mirror": True, "views__share": 0.5, "views__tile": 16, "views__margin": 8},
    {"fusion": "soft"},
  ),
  "tiles": ({"tiles__size": 32, "tiles__overlap": 0}, {"fusion": "soft"}),
  "references": ({"kernels": "reference", "segmenter__size_remainder": 1}, {"fusion": "detail"}),
}


SLOW = ("error alone", "layer cascade", "views", "doubtful tiles again", "references")
"""A minute together: `make slow` runs them."""


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] * (k in SLOW)) for k in KINDS])
def test_labels_are_those_of_predict(tiny_config, tmp_path, monkeypatch, kind):
  changes, choice = KINDS[kind]
  if changes.get("segmenter__size_remainder"):
    monkeypatch.setattr(sys.modules[__name__], "SIZE", (33, 65))
  network = network_of(with_defaults(tiny_config(**changes)), **choice)
  content, out = written(tmp_path / "out", network)
  assert content["platforms"] == ["cpu", "cuda", "tpu"]
  assert len(np.unique(out["semantic_labels"])) > 1
  assert out["error_probability"].std() > 0


def test_a_cascade_is_written_without_its_early_exit(tiny_config, tmp_path):
  config = configs.cascade(tiny_config(early_exit__threshold=0.4), 8)
  network = network_of(with_defaults(config), fusion="refined")
  _, out = written(tmp_path / "out", network)
  (image,) = images().by_size[SIZE]
  assert (network.predict(image).detail_labels != out["detail_labels"]).any()


def test_a_given_function_is_part_of_the_program(tiny_config, tmp_path, mine):
  adapter = {"name": "function", "factory": "mine:weighted"}
  config = with_defaults(tiny_config(order=("detail", "error"), segmenter__adapter=adapter))
  content, _ = written(tmp_path / "out", network_of(config, fusion="soft"))
  names = Model(tmp_path / "out").weights
  assert "params/segmenter/colours" in names
  assert not [name for name in names if "never" in name]  # what no program reads is not written
  assert content["preprocessing"] == {"inside": True, "by": "adapter function"}


def test_a_given_program_says_which_devices_it_is_for(tiny_config, tmp_path):
  def logits(x):
    colours = jnp.array([(60, 60, 60), (170, 60, 50), (60, 160, 70)], jnp.float32).reshape(1, 1, 1, 3, 3)
    return -((x.astype(jnp.float32)[:, ::4, ::4, None, :] - colours) ** 2).sum(-1) / 2000

  size = jax_export.symbolic_shape("b, 4*h, 4*w, 3")
  found = jax_export.export(jax.jit(logits), platforms=("cpu", "tpu"))(jax.ShapeDtypeStruct(size, jnp.uint8))
  (tmp_path / "net.bin").write_bytes(found.serialize())
  adapter = {"name": "export", "path": str(tmp_path / "net.bin")}
  config = with_defaults(tiny_config(order=("detail", "error"), segmenter__adapter=adapter))
  content, _ = written(tmp_path / "out", network_of(config, fusion="soft"))
  assert content["platforms"] == ["cpu", "tpu"]


def test_a_given_function_that_calls_python_is_refused(tiny_config, tmp_path, mine):
  adapter = {"name": "function", "factory": "mine:calling_back"}
  config = with_defaults(tiny_config(order=("detail", "error"), segmenter__adapter=adapter))
  with pytest.raises(UserError, match=r"the given network .* for images of 32x64 "):
    write(tmp_path, exportable(network_of(config)), [SIZE])


@pytest.fixture(scope="module")
def plain(tiny_config, tmp_path_factory):
  """(folder of an exported network, the network)."""
  folder = tmp_path_factory.mktemp("export") / "out"
  network = exportable(network_of(with_defaults(tiny_config()), fusion="soft"))
  folder.mkdir()
  write(folder, network, [SIZE])
  return folder, network


def test_an_image_is_told_the_same_in_any_batch(plain):
  folder, network = plain
  model, own = Model(folder), np.stack(images(3).by_size[SIZE])
  for count in (1, 3):
    out = model.predict_batch(own[:count])
    for k in range(count):
      expected = network.predict(own[k])
      for name in ("labels", "semantic_labels", "detail_labels"):
        np.testing.assert_array_equal(out[name][k], getattr(expected, name))
      np.testing.assert_allclose(out["error_probability"][k], expected.error_probability, atol=1e-5)


def test_side_by_side_is_as_one_after_another(plain):
  """What runs where no CPU does, of which there is none here."""
  _, network = plain
  program, own = Program(network), np.stack(images(3).by_size[SIZE])
  padded = np.zeros((3, *SIZE, 3), np.uint8)
  padded[:, :30, :50] = own
  single = jax.jit(program._single)
  together = jax.jit(jax.vmap(program._single, (None, 0)))(program.weights, padded)
  for k in range(3):
    alone = single(program.weights, padded[k])
    np.testing.assert_array_equal(together["labels"][k], alone["labels"])
    np.testing.assert_allclose(together["error_probability"][k], alone["error_probability"], atol=1e-5)


def test_weights_are_in_one_file_and_no_program(plain):
  folder, network = plain
  card = json.loads((folder / "card.json").read_text())
  assert sorted(p.name for p in folder.iterdir()) == [
    *("card.json", "example.py", "program_32x64.bin", "weights.safetensors")
  ]
  arrays, ours = load_file(folder / "weights.safetensors"), Model(folder).weights
  assert arrays.keys() == ours.keys()
  for name, x in arrays.items():
    np.testing.assert_array_equal(x, ours[name])
  # Batch normalisations are folded: their gains are in the kernels.
  assert not [name for name in arrays if "/bn/" in name and name.endswith(("mean", "var", "scale"))]
  changed = {name: x * 0 for name, x in ours.items()}
  padded = np.zeros((1, *SIZE, 3), np.uint8)
  out = Model(folder).program(SIZE)(changed, padded)
  assert not out["semantic_labels"].any()
  assert card["weights"]["arrays"] == len(arrays)
  assert card["classes"] == ["ground", "wall", "sign"]
  assert card["choice"]["fusion"] == "soft"
  assert card["padding"] == {
    **{"value": list(assemble.pad_value(network.config)), "where": "bottom and right"},
    **{"multiple": 32, "remainder": 0},
  }


def test_a_changed_file_and_an_unknown_size_are_refused(plain, tmp_path):
  folder = tmp_path / "copy"
  shutil.copytree(plain[0], folder)
  with pytest.raises(ValueError, match="no program for images of 64x64; there are 32x64"):
    Model(folder).predict(np.zeros((60, 60, 3), np.uint8))
  with pytest.raises(ValueError, match=r"uint8 \[b, H, W, 3\]"):
    Model(folder).predict(np.zeros((30, 50, 3), np.float32))
  file = folder / "weights.safetensors"
  content = bytearray(file.read_bytes())
  content[-1] ^= 1
  file.write_bytes(content)
  with pytest.raises(ValueError, match="not the file that was exported"):
    Model(folder)


def test_a_program_of_another_network_fails_the_check(plain):
  folder, network = plain
  other = dataclasses.replace(network, choice=dataclasses.replace(network.choice, offset=1.0))
  with pytest.raises(UserError, match=r"gives (other labels|P\(error\))"):
    check(folder, other, images())
  other = dataclasses.replace(network, choice=dataclasses.replace(network.choice, fusion="detail"))
  with pytest.raises(UserError, match="gives other labels than the run"):
    check(folder, other, images())


def test_what_cannot_be_written_is_one_line(plain):
  _, network = plain
  config = network.config.copy_and_resolve_references()
  config.dtype = "float64"
  with pytest.raises(UserError, match=r"set --config\.dtype=float32"):
    exportable(dataclasses.replace(network, config=config))
  saved = Adapted(Network(lambda weights, images: images[..., 3:], {}, 3, channels=6))
  with pytest.raises(UserError, match="saved scores"):
    exportable(dataclasses.replace(network, model=network.model.clone(segmenter=saved)))
