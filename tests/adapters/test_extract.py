"""`errseg data extract`: the scores of any network in files, which then stand in for it."""

import sys
import types

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

import errseg_jax
from errseg_jax import assemble
from errseg_jax.adapters.host import as_logits
from errseg_jax.assemble import with_defaults
from errseg_jax.cli import main
from errseg_jax.data.score_files import read_scores
from errseg_jax.data.scores import at_size, encode
from errseg_jax.errors import UserError
from errseg_jax.prepare.extract import extract

MODULE = """
import numpy as np

COLOURS = np.array([(60, 60, 60), (170, 60, 50), (60, 160, 70)], np.float32)
calls = []


def logits(image):
  calls.append(image.shape)
  return -((np.float32(image)[..., None, :] - COLOURS) ** 2).sum(-1) / 2000


def in_numpy():
  return logits


def in_jax():
  import jax.numpy as jnp

  colours = jnp.asarray(COLOURS).reshape(1, 1, 1, 3, 3)
  return lambda images: -((jnp.float32(images)[..., None, :] - colours) ** 2).sum(-1) / 2000


def broken():
  return lambda image: np.full((4, 4, 3), np.nan)


def flat():
  return lambda image: np.zeros(7)


def of_four():
  return lambda image: np.zeros((4, 4, 4))
"""


@pytest.fixture(scope="module")
def numpy_net(tmp_path_factory):
  """A module of the user's own."""
  folder = tmp_path_factory.mktemp("code")
  (folder / "numpy_net.py").write_text(MODULE)
  sys.path.insert(0, str(folder))
  import numpy_net as found

  yield found
  sys.path.remove(str(folder))
  sys.modules.pop("numpy_net", None)


def config_of(tiny_config, **adapter):
  return with_defaults(tiny_config(order=("detail", "error"), segmenter__adapter=adapter))


@pytest.mark.parametrize(("name", "factory"), [("callback", "in_numpy"), ("function", "in_jax")])
def test_the_scores_of_a_network_come_back_from_its_files(numpy_net, tiny_config, tmp_path, name, factory):
  config = config_of(tiny_config, name=name, factory=f"numpy_net:{factory}")
  extract(config, None, "", tmp_path / "scores", 2)
  source = assemble.dataset(config).source("val")
  for index, sample in enumerate(map(source.__getitem__, range(len(source)))):
    size = sample["label"].shape
    found = read_scores(tmp_path / "scores" / "val" / f"{source.names[index]}.npz", size, 3)
    want = numpy_net.logits(sample["image"])
    half = cv2.resize(want, (size[1] // 2, size[0] // 2), interpolation=cv2.INTER_AREA)
    assert np.abs(found.astype(int) - encode(half)).max() <= 1
  saved = config_of(tiny_config, name="saved", folder=str(tmp_path / "scores"))
  np.testing.assert_array_equal(assemble.dataset(saved).source("val")[index]["scores"], found)


def test_a_killed_call_goes_on_and_another_network_is_refused(numpy_net, tiny_config, tmp_path):
  config = config_of(tiny_config, name="callback", factory="numpy_net:in_numpy")
  extract(config, None, "val", tmp_path, 4)
  files = sorted((tmp_path / "val").glob("*.npz"))
  contents = [path.read_bytes() for path in files]
  files[1].unlink()
  times = [path.stat().st_mtime_ns for path in files if path.exists()]
  numpy_net.calls.clear()
  extract(config, None, "val", tmp_path, 4)
  assert len(numpy_net.calls) == 1
  assert [path.stat().st_mtime_ns for path in files if path != files[1]] == times
  assert [path.read_bytes() for path in files] == contents
  with pytest.raises(UserError, match="of another stride"):
    extract(config, None, "val", tmp_path, 2)
  other = config_of(tiny_config, name="function", factory="numpy_net:in_jax")
  with pytest.raises(UserError, match="of another network"):
    extract(other, None, "val", tmp_path, 4)
  config.views.mirror = True
  with pytest.raises(UserError, match="of another views"):
    extract(config, None, "val", tmp_path, 4)
  config.views.mirror = False
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "val").mkdir()
  (tmp_path / "mine" / "val" / "notes.txt").write_text("mine")
  with pytest.raises(UserError, match="holds other files"):
    extract(config, None, "val", tmp_path / "mine", 4)


def test_mistakes_are_one_line(numpy_net, tiny_config, tmp_path, monkeypatch):
  config = config_of(tiny_config, name="callback", factory="numpy_net:in_numpy")
  with pytest.raises(UserError, match="at least 1"):
    extract(config, None, "val", tmp_path / "a", 0)
  for factory, message in (
    ("broken", "no finite numbers"),
    ("flat", r"shape \(7,\)"),
    ("of_four", "scores of 4 classes, and the data set has 3"),
  ):
    net = config_of(tiny_config, name="callback", factory=f"numpy_net:{factory}")
    with pytest.raises(UserError, match=message):
      extract(net, None, "val", tmp_path / factory, 4)
  with pytest.raises(UserError, match="workdir=W is needed"):
    extract(tiny_config(), None, "val", tmp_path / "c", 4)
  with pytest.raises(UserError, match=r"errseg data extract"):
    assemble.model(config, 3)
  votes = config_of(tiny_config, name="callback", factory="numpy_net:in_numpy", values="votes")
  with pytest.raises(UserError, match="known are probabilities, logits"):
    extract(votes, None, "", tmp_path, 4)
  saved = config_of(tiny_config, name="saved", folder=str(tmp_path))
  with pytest.raises(UserError, match="no such file"):
    extract(saved, None, "val", tmp_path / "d", 4)
  monkeypatch.setattr("shutil.disk_usage", lambda path: types.SimpleNamespace(free=10))
  with pytest.raises(UserError, match="are free"):
    extract(config, None, "val", tmp_path / "e", 4)


def test_a_trained_run_is_extracted_by_the_command(trained, tmp_path):
  flags = [f"--workdir={trained}", "--split=val"]
  assert main(["data", "extract", *flags, f"--out={tmp_path}", "--stride=1"]) == 0
  network = errseg_jax.load(str(trained))
  source = assemble.dataset(network.config).source("val")
  for index, name in enumerate(source.names):
    found = at_size(read_scores(tmp_path / "val" / f"{name}.npz", source[index]["label"].shape, 3), (32, 48))
    want = network.predict(source[index]["image"]).semantic_labels
    assert (found.argmax(-1) == want).mean() > 0.97  # codes of near ties are equal
  assert main(["data", "extract", *flags]) == 2


def test_probabilities_and_single_logits_become_logits():
  p = np.array([[[0.2, 0.8]]], np.float32)
  np.testing.assert_allclose(as_logits("probabilities", p), np.log(p))
  one = as_logits("probabilities", p[..., 1])
  np.testing.assert_allclose(jnp.diff(one, axis=-1)[..., 0], np.log(0.8 / 0.2), rtol=1e-6)
  np.testing.assert_array_equal(as_logits("logits", np.full((1, 1), 3.0)), [[[0, 3]]])
