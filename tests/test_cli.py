import json
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from errseg_jax import cli, commands
from errseg_jax.cli import main
from errseg_jax.commands import COMMANDS

CONFIG = """
from errseg_jax.models.backbones import resnet
from errseg_jax.train.workdir import load_config

resnet.BLOCKS[10] = (1, 1, 1, 1)


def get_config(arg=None):
  return load_config({folder!r})
"""


@pytest.fixture(autouse=True)
def _keep_settings(monkeypatch):
  """Commands set up logging, the cache and the platform of a whole process; this one has them."""
  monkeypatch.setattr(commands, "prepare", lambda config, distributed="off": None)


@pytest.fixture
def config_file(tmp_path, tiny_config):
  """(**changes) -> a config file."""

  def write(**changes):
    (tmp_path / "config.json").write_text(tiny_config(**changes).to_json())
    (tmp_path / "tiny.py").write_text(CONFIG.format(folder=str(tmp_path)))
    return tmp_path / "tiny.py"

  return write


def snapshot(folder):
  return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def refused(capsys):
  """(words of a command line, *expected words): status 2, one line on stderr that has them."""

  def check(words, *expected):
    capsys.readouterr()
    assert main([str(w) for w in words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("errseg: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    for word in expected:
      assert str(word) in captured.err, captured.err

  return check


def test_help_lists_exactly_the_commands(capsys):
  for words in ([], ["--help"], ["-h"]):
    assert main(words) == 0
    block = capsys.readouterr().out.split("commands:\n")[1].split("\n\n")[0]
    assert [line[2:14].strip() for line in block.splitlines()] == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_own_help(capsys, name):
  with pytest.raises(SystemExit) as caught:
    main([*name.split(), "--help"])
  assert caught.value.code == 0
  out = capsys.readouterr().out
  assert all(flag in out for flag in cli.OWN_FLAGS[name])


def test_unknown_words_are_refused_with_the_near_name(refused, config_file):
  file = config_file()
  refused(["trian"], "'trian'", "did you mean 'train'")
  refused(["fly"], "known: train, evaluate")
  refused(["train", "--wrokdir=x"], "did you mean --workdir?")
  refused(["train", f"--config={file}"], "--workdir=DIR is needed")
  refused(["train", "--workdir=x"], "--config=FILE is needed")
  refused(["evaluate"], "--workdir=DIR is needed")
  refused(["predict"], "images")
  refused(["train", "--config=nowhere.py", "--workdir=x"], "nowhere.py", "no such file")


@pytest.mark.parametrize(
  ("override", "words"),
  [
    ("--config.sede=1", ("'sede'", "did you mean 'seed'")),
    ("--config.stages.semantic.stesp=1", ("config.stages.semantic", "did you mean 'steps'")),
    ("--config.stages.semantic.steps=many", ("config.stages.semantic.steps", "int")),
    ("--config.transform.flip=maybe", ("config.transform.flip", "bool")),
    ("--config.stages=1", ("is a section",)),
    ("--config.seed.more=1", ("is no section",)),
    ("--config.seed", ("=VALUE",)),
    ("--config.data.name=camvit", ("camvit", "camvid", "folders", "scenes")),
    ("--config.segmenter.backbone.name=resnext", ("resnext", "resnet, squeezenet")),
    ("--config.splits.train=trian", ("images/trian", "no such folder")),
    ("--config.splits.choose=val", ("splits.choose='val'", "reported", "train.select='last'")),
    ("--config.splits.choose=train", ("splits.choose='train'", "training split")),
    ("--config.detail_loss.balance=2.0", ("detail_loss.balance=2.0", "between 0")),
    ("--config.detail_loss.pixel.name=focall", ("detail_loss.pixel.name='focall'", "did you mean 'focal'")),
    ("--config.splits.error_source=test", ("train, holdout",)),
    ("--config.num_devices=3", ("batch_size=8", "3 devices")),
    ("--config.error_loss.w2=x", ("error_loss",)),
    ("--config.choose.fusions=('sofd',)", ("did you mean 'soft'",)),
    ("--config.train.select=beste", ("did you mean 'best'",)),
    ("--config.segmenter.init=nowhere", ("nowhere", "not the workdir of a run")),
    ("--config.segmenter.backbone_weights=nowhere.npz", ("nowhere.npz", "does not exist")),
    ("--config.stages.detail.optimizer.name=adamm", ("did you mean 'adam'",)),
  ],
)
def test_a_bad_override_is_one_line_and_leaves_no_workdir(refused, config_file, tmp_path, override, words):
  file, workdir = config_file(), tmp_path / "run"
  refused(["train", f"--config={file}", f"--workdir={workdir}", override], *words)
  assert not workdir.exists()


@pytest.mark.parametrize(
  ("line", "words"),
  [
    ("config.stages.semantic = stage(4, 1e-3, batch_sise=8)", ("batch_sise", "batch_size")),
    ("config.loader.thread = 3", ("thread", "threads")),
    ("config.transfrom = {'flip': False}", ("transfrom", "transform")),
    ("config.transform.flop = False", ("flop", "flip")),
    ("config.error_loss.w4 = 1.0", ("w4", "w3")),
    ("config.stages.detail.multipliers = {'segmenter': 0.1}", ("multipliers",)),
    ("config.stages.detail.optimizer.multipliers = {'segmenter': 0.1}", ("'segmenter'",)),
    ("config.choose.treshold = 1", ("treshold", "thresholds")),
    ("config.nope.flip = 1", ("nope",)),
    ("raise ValueError('not this')", ("not this",)),
    ("config.data.rooot = 'x'", ("data.rooot", "root")),
  ],
)
def test_a_mistake_in_a_config_file_is_one_line(refused, config_file, tmp_path, line, words):
  file, workdir = config_file(), tmp_path / "run"
  text = file.read_text().replace("  return load", "  config = load") + f"  {line}\n  return config\n"
  file.write_text("from errseg_jax.config import stage\n" + text)
  refused(["train", f"--config={file}", f"--workdir={workdir}"], *words)
  assert not workdir.exists()


def break_data(root: pathlib.Path, how: str) -> None:
  images, labels = root / "images/train", root / "labels/train"
  label = np.asarray(Image.open(labels / "train_3.png"))
  if how == "no folder":
    shutil.rmtree(images)
  elif how == "empty folder":
    shutil.rmtree(images)
    images.mkdir()
  elif how == "no label":
    (labels / "train_3.png").unlink()
  elif how == "no image":
    (images / "train_3.png").unlink()
  elif how == "size":
    Image.fromarray(label[:-1]).save(labels / "train_3.png")
  elif how == "range":
    Image.fromarray(np.where(label == 2, 7, label)).save(labels / "train_3.png")
  elif how == "truncated":
    data = (images / "train_3.png").read_bytes()
    (images / "train_3.png").write_bytes(data[: len(data) // 2])
  elif how == "no image at all":
    (images / "train_3.png").write_text("hello")


@pytest.mark.parametrize(
  ("how", "words"),
  [
    ("no folder", ("images/train", "no such folder")),
    ("empty folder", ("images/train", "holds no")),
    ("no label", ("train_3.png", "has no label")),
    ("no image", ("train_3.png", "has no image")),
    ("size", ("train_3.png", "48x31", "48x32")),
    ("range", ("train_3.png", "value 7")),
    ("truncated", ("train_3.png", "truncated")),
    ("no image at all", ("train_3.png", "not an image")),
  ],
)
def test_bad_data_names_the_file(refused, config_file, own_data, tmp_path, how, words):
  break_data(own_data, how)
  file = config_file()
  root = f"--config.data.root={own_data}"
  refused(["train", f"--config={file}", f"--workdir={tmp_path / 'run'}", root], *words)
  assert main(["data", "check", f"--config={file}", root, "--split=train"]) == 2


def test_sound_data_passes_the_check(config_file, capsys):
  assert main(["data", "check", f"--config={config_file()}"]) == 0
  assert "ground" in capsys.readouterr().out


def test_a_workdir_of_another_config_is_left_as_it_is(refused, config_file, trained):
  before = snapshot(trained)
  refused(["train", f"--config={config_file()}", f"--workdir={trained}"], "another config", "order")
  assert snapshot(trained) == before


def test_a_finished_run_is_not_trained_again(trained, tmp_path, tiny_config):
  workdir = tmp_path / "run"
  shutil.copytree(trained, workdir)
  (tmp_path / "tiny.py").write_text(CONFIG.format(folder=str(workdir)))
  before = snapshot(workdir)
  assert main(["train", f"--config={tmp_path / 'tiny.py'}", f"--workdir={workdir}"]) == 0
  after = snapshot(workdir)
  assert {k for k in before if after[k] != before[k]} == set()
  assert not {k for k in after.keys() - before.keys() if "tfevents" not in k}


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"segmenter__backbone__width": 4}, ("does not fit", "shape", "backbone", "(")),
    ({"segmenter__backbone__stem": "semseg"}, ("does not fit", "missing", "extra", "stem")),
  ],
)
def test_a_network_of_another_shape_is_refused_as_a_start(
  refused, config_file, trained, tmp_path, change, words
):
  before = snapshot(trained)
  file = config_file(segmenter__init=str(trained), **change)
  refused(["train", f"--config={file}", f"--workdir={tmp_path / 'run'}"], *words)
  assert snapshot(trained) == before
  assert not (tmp_path / "run").exists()


def test_a_network_of_another_class_count_is_refused_as_a_start(refused, config_file, trained, tmp_path):
  file = config_file(segmenter__init=str(trained), data__num_classes=4, data__class_names=tuple("abcd"))
  words = ("does not fit", "classifier", f"--config.segmenter.backbone_weights={trained}")
  refused(["train", f"--config={file}", f"--workdir={tmp_path / 'run'}"], *words)


@pytest.mark.parametrize("command", ["evaluate", "report", "predict"])
def test_a_folder_that_is_no_run_is_refused(refused, tmp_path, command):
  (tmp_path / "image.png").write_bytes(b"")
  words = [command, f"--workdir={tmp_path}"] + [str(tmp_path / "image.png")] * (command == "predict")
  refused(words, "config.json", "not the workdir of a run")
  assert snapshot(tmp_path) == {"image.png": b""}


def test_the_run_of_another_version_is_refused(refused, trained, tmp_path):
  shutil.copytree(trained, tmp_path / "run")
  path = tmp_path / "run" / "config.json"
  config = json.loads(path.read_text())
  del config["loader"]["shards"], config["transform"]["cutout"]
  path.write_text(json.dumps(config))
  refused(
    ["evaluate", f"--workdir={tmp_path / 'run'}"], "no loader.shards, transform.cutout", "another version"
  )


def test_an_unfinished_run_is_not_evaluated(refused, trained, tmp_path):
  shutil.copytree(trained, tmp_path / "run")
  (tmp_path / "run/choice.json").unlink()
  before = snapshot(tmp_path)
  refused(["evaluate", f"--workdir={tmp_path / 'run'}"], "choice.json is missing")
  shutil.rmtree(tmp_path / "run/checkpoints/error")
  refused(["evaluate", f"--workdir={tmp_path / 'run'}"], "checkpoints/error", "has not finished")
  after = snapshot(tmp_path)
  assert {k: before[k] for k in after} == after


def test_a_trained_workdir_takes_the_device_flags_and_reads_choice_json(refused, trained, capsys):
  override = [f"--workdir={trained}", "--config.platform=cpu", "--config.num_devices=1"]
  args = cli.parse("evaluate", override)
  config = commands.workdir_config(args)
  assert (config.platform, config.num_devices) == ("cpu", 1)
  refused(["evaluate", *override, "--split=tset"], "images/tset")


def run(code):
  """(stdout of a fresh interpreter, seconds)."""
  start = time.perf_counter()
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  return done.stdout, time.perf_counter() - start


@pytest.mark.parametrize("code", ["import errseg_jax", "from errseg_jax.cli import main; main(['--help'])"])
def test_import_and_help_are_quick_and_pull_in_nothing_heavy(code):
  heavy = "[m for m in ('jax', 'tensorflow', 'torch', 'cv2') if m in sys.modules]"
  best = 9.0
  for _ in range(3):
    out, seconds = run(f"import sys; {code}; print({heavy})")
    assert out.splitlines()[-1] == "[]"
    best = min(best, seconds)
  assert best < 3


def test_no_command_imports_tensorflow_or_torch():
  modules = "train.trainer, errseg_jax.evaluate, errseg_jax.predict, errseg_jax.doctor"
  out, _ = run(
    f"import sys, errseg_jax.{modules}, errseg_jax.report.collect; "
    "print([m for m in ('tensorflow', 'torch') if m in sys.modules])"
  )
  assert out.strip() == "[]"
