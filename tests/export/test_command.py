"""`errseg export` as a user calls it, and what it writes where nothing of this package is."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import venv

import numpy as np
import pytest
from PIL import Image

from errseg_jax import commands
from errseg_jax.cli import main
from errseg_jax.export import check as checks
from errseg_jax.export import sizes

ONLY = ("jax", "jaxlib", "flatbuffers", "numpy", "ml_dtypes", "opt_einsum", "scipy")
GUARDED = """
import runpy, sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

class Only(PathFinder):
  @classmethod
  def find_spec(cls, name, path=None, target=None):
    top = name.split(".")[0]
    known = top in sys.stdlib_module_names or top.startswith("_sysconfigdata") or top in {only!r}
    return super().find_spec(name, path, target) if known else None

sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Only]
sys.argv = {argv!r}
runpy.run_path(sys.argv[0], run_name="__main__")
assert not [name for name in sys.modules if name.split(".")[0] in ("errseg_jax", "flax", "safetensors", "cv2")]
"""


@pytest.fixture(autouse=True)
def _keep_settings(monkeypatch):
  """Commands set up logging, the cache and the platform of a whole process; this one has them."""
  monkeypatch.setattr(commands, "prepare", lambda config, distributed="off": None)


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
  """The exported network of the finished run."""
  out = tmp_path_factory.mktemp("exported") / "new" / "out"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(commands, "prepare", lambda config, distributed="off": None)
    assert main(["export", f"--workdir={trained}", f"--out={out}"]) == 0
  return out


def predicted(trained, images, out):
  """{name: (corrected labels, the network's labels, error map)} by `errseg predict`, dense."""
  words = [f"--workdir={trained}", f"--output={out}", "--config.sparse.threshold=0"]
  assert main(["predict", *words, str(images)]) == 0
  kinds = ("corrected", "labels", "error")
  return {
    p.stem: tuple(np.array(Image.open(out / f"{p.stem}_{kind}.png")) for kind in kinds)
    for p in images.iterdir()
  }


def as_arrays(images, folder):
  """Images as files that numpy reads."""
  folder.mkdir()
  for path in images.iterdir():
    np.save(folder / f"{path.stem}.npy", np.asarray(Image.open(path).convert("RGB")))
  return sorted(map(str, folder.iterdir()))


def agree(expected, folder):
  """The example's outputs are what `errseg predict` wrote."""
  for name, (corrected, labels, error) in expected.items():
    with np.load(folder / f"{name}.npz") as out:
      np.testing.assert_array_equal(out["labels"], corrected)
      np.testing.assert_array_equal(out["semantic_labels"], labels)
      np.testing.assert_allclose(out["error_probability"], error / 255, atol=0.5 / 255 + 1e-5)


def test_the_example_labels_as_predict_does_and_imports_jax_alone(exported, trained, shared_data, tmp_path):
  images = shared_data / "images" / "val"
  expected = predicted(trained, images, tmp_path / "predictions")
  argv = [str(exported / "example.py"), *as_arrays(images, tmp_path / "arrays")]
  code = GUARDED.format(only=ONLY, argv=argv)
  done = subprocess.run(
    [sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd="/", check=False
  )
  assert done.returncode == 0, done.stderr
  agree(expected, tmp_path / "arrays")
  assert len({len(np.unique(labels)) for _, labels, _ in expected.values()} - {1})


@pytest.mark.slow
def test_in_an_environment_of_jax_and_numpy_alone(exported, trained, tmp_path):
  rng, images = np.random.default_rng(3), tmp_path / "images"
  images.mkdir()
  for k in range(10):
    Image.fromarray(sizes.scene(rng, 32 - k, 48 - k)).save(images / f"{k}.png")
  expected = predicted(trained, images, tmp_path / "predictions")
  venv.create(tmp_path / "bare", with_pip=True)
  python = tmp_path / "bare" / "bin" / "python"
  constraints = pathlib.Path(__file__).parents[2] / "constraints.txt"
  packages = ["-c", str(constraints), "jax", "flatbuffers", "numpy"]
  subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
  arrays = as_arrays(images, tmp_path / "arrays")
  subprocess.run(
    [python, "-I", exported / "example.py", *arrays], check=True, cwd="/", env={"PATH": os.defpath}
  )
  agree(expected, tmp_path / "arrays")
  found = subprocess.run(
    [python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True
  ).stdout
  assert not {"errseg-jax", "flax", "safetensors"} & {entry["name"].lower() for entry in json.loads(found)}


def test_the_card_says_what_was_checked(exported, capsys):
  card = json.loads((exported / "card.json").read_text())
  assert [program["size"] for program in card["programs"]] == [[32, 64]]
  assert card["check"]["images"] == sizes.TRIED
  assert card["check"]["of"] == "split val"
  assert card["check"]["error_probability_off"] <= 1e-5
  assert [p.name for p in exported.parent.iterdir()] == ["out"]


def test_sizes_are_of_images(trained, tmp_path, capsys):
  out = tmp_path / "out"
  out.mkdir()  # an empty folder may be filled
  assert main(["export", f"--workdir={trained}", f"--out={out}", "--sizes=20x31,32x32, 40x20"]) == 0
  card = json.loads((out / "card.json").read_text())
  assert [program["size"] for program in card["programs"]] == [[32, 32], [64, 32]]
  assert card["check"] | {"error_probability_off": 0} == {
    **{"images": 3, "of": "generated images", "labels": "identical", "error_probability_off": 0}
  }
  assert "32x32, 64x32" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--sizes=32"], "--sizes=32: write HEIGHTxWIDTH"),
    (["--sizes=0x32"], "write HEIGHTxWIDTH"),
    (["--sizes=32x32,"], "write HEIGHTxWIDTH"),
    (["--config.data.root=nowhere"], "nowhere"),
  ],
)
def test_a_mistake_leaves_nothing(trained, tmp_path, capsys, flags, words):
  out = tmp_path / "out"
  assert main(["export", f"--workdir={trained}", f"--out={out}", *flags]) == 2
  assert words in capsys.readouterr().err
  assert not [*tmp_path.iterdir()]


def test_another_label_is_an_error_and_leaves_nothing(trained, tmp_path, capsys, monkeypatch):
  predict = checks.Model.predict

  def wrong(self, image):
    out = predict(self, image)
    return {
      **out,
      "detail_labels": out["detail_labels"] ^ (np.arange(out["labels"].size) == 7).reshape(image.shape[:2]),
    }

  monkeypatch.setattr(checks.Model, "predict", wrong)
  assert main(["export", f"--workdir={trained}", f"--out={tmp_path / 'out'}", "--sizes=32x32"]) == 2
  assert "gives other detail_labels than the run in 1 of 1024 pixels" in capsys.readouterr().err
  assert not [*tmp_path.iterdir()]


def test_nothing_is_written_over(exported, trained, tmp_path, capsys):
  before = {p.name: p.read_bytes() for p in exported.iterdir()}
  (tmp_path / "file").write_text("")
  for out in (exported, tmp_path / "file"):
    assert main(["export", f"--workdir={trained}", f"--out={out}"]) == 2
    assert "is not an empty folder: name another" in capsys.readouterr().err
  assert {p.name: p.read_bytes() for p in exported.iterdir()} == before
  assert main(["export", f"--workdir={trained}"]) == 2
  assert "--out=DIR is needed" in capsys.readouterr().err


def test_too_many_sizes_are_to_be_named(trained, own_data, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(sizes, "MOST", 1)
  first = sorted((own_data / "images" / "val").iterdir())[0]
  for kind in ("images", "labels"):
    path = own_data / kind / "val" / first.name
    Image.open(path).resize((70, 20), Image.Resampling.NEAREST).save(path)
  workdir = tmp_path / "run"
  shutil.copytree(trained, workdir)
  words = [f"--workdir={workdir}", f"--out={tmp_path / 'out'}", f"--config.data.root={own_data}"]
  assert main(["export", *words]) == 2
  assert "come to 2 sizes" in (told := capsys.readouterr().err)
  assert "--sizes=32x64 " in told
