"""The commands of the README and the tutorials, run line by line as they stand there, in a short form.

They run in a folder that holds what they name: `configs`, `data` of a tiny set, `photos`, `pool`. What makes a run
short is added behind a line, and nothing else. Commands of the pages in NIGHTLY follow in the same folder, marked
slow, their W and DIR filled in. Commands of the others are only parsed (`test_commands.py`); PARSED says why.
"""

import csv
import json
import shutil

import pytest

from errseg_jax import commands
from errseg_jax.cli import main
from errseg_jax.models.backbones import resnet
from tests.docs.pages import COMMANDS, ROOT, commands_of, snippets_of

RUN = (
  "README.md",
  "docs/own_data.md",
  "docs/tutorials/improve_my_network.md",
  "docs/tutorials/find_errors.md",
  "docs/tutorials/find_bad_labels.md",
  "docs/tutorials/choose_images_to_annotate.md",
  "docs/tutorials/train_the_papers_systems.md",
)
"""In this order: what one leaves behind the next may use."""
NIGHTLY = (
  "docs/report.md",
  "docs/export.md",
  "docs/tracking.md",
  "docs/label_issues.md",
  "docs/launching.md",
  "docs/inference.md",
  "docs/confusing_groups.md",
)
FILLED = {
  "W": "runs/mine",
  "A": "runs/mine",
  "B": "runs/improved",
  "C": "runs/third",
  "runs/a": "runs/mine",
  "runs/b": "runs/improved",
  "runs/demo": "runs/scenes",
  "DIR": "exported_again",
  "LARGE.png": "photos",
}
"""What stands on a page of NIGHTLY for the reader's own -> what it is in the folder."""
PARSED = {
  "CONTRIBUTING.md": "make would install an environment; CI runs these targets",
  "docs/ablate.md": "CONFIG is the reader's; ablate is run by improve_my_network",
  "docs/cascade.md": "CONFIG is the reader's; tests/train/test_cascade.py trains and benches one",
  "docs/configs.md": "more runs of scenes_demo: train_the_papers_systems has one",
  "docs/convert.md": "wants published weights; tests/convert runs convert on files of the same form",
  "docs/crf.md": "wants a guided run; tests/inference/test_tune.py",
  "docs/data_sets.md": "public data sets; tests/data/test_shards.py, tests/data/test_tfds.py",
  "docs/experiments.md": "Cityscapes; tests/test_configs.py rehearses its configs",
  "docs/extending.md": "make would install an environment; CI runs these targets",
  "docs/faq.md": "a set of labels from 1 on; tests/data/test_label_files.py",
  "docs/guidance.md": "tests/train/test_guidance.py; the figures want MSRC-21",
  "docs/kernels.md": "1025x2049 pixels; tests/bench/test_kernels.py runs smaller ones",
  "docs/losses.md": "tests/test_pixel_loss_settings.py",
  "docs/results.md": "CamVid, and hours",
  "docs/serve.md": "runs until it is stopped; tests/serve starts and stops it",
  "docs/speed.md": "times of this machine; tests/bench",
  "docs/your_network.md": "the reader's network; tests/adapters",
  "launch/README.md": "GPUs and TPUs; tests/launch",
  "launch/xpk.md": "a cluster",
}
"""Page -> why none of its commands is run here, or what runs them."""
NOT_RUN = {
  "make": "installs an environment; CI runs these targets",
  "configs/camvid_squeezenet_error_detail.py": "CamVid, and hours",
  "configs/cityscapes_": "Cityscapes",
  "converted/": "wants published weights",
  "runs/pspnet": "wants published weights",
  "--weights=": "wants published weights",
  "--what=size": "needs the config of converted weights",
  "errseg', 'ablate": "a minute; tests/ablation/test_run.py runs it",
  "runs/second": "the lines that made runs/mine, in another workdir",
  "errseg', 'serve": "runs until it is stopped; tests/serve starts and stops it",
  "scenes_demo.py:": "a minute each; tests/test_guidance_configs.py, tests/train",
  "--sizes=480x640": "a large program on a CPU; tests/export writes small ones",
  "wandb=PROJECT": "sends to a server; tests/train/test_tracking.py has one that it sends to",
  "docs/label_issues.py": "CamVid",
  "errseg', 'plan": "asks for a TPU's plan; tests/planning/test_plan.py",
  "--config=CONFIG": "the config is the reader's; tests/train/test_subnets.py",
  "msrc21": "MSRC-21, and hours",
  "--config.platform=cpu": "the config that train_the_papers_systems trains",
  "errseg', 'bench": "times of this machine; tests/bench",
}
"""Part of a command of a page in RUN or NIGHTLY -> why it is not run."""
STAGES = ("semantic", "detail", "error", "control")
TINY = (
  "segmenter.backbone.depth=10",
  "segmenter.backbone.width=8",
  "segmenter.head.features=16",
  "segmenter.head.low_features=8",
  "segmenter.head.rates=(1,2,3)",
  "segmenter.head.separable=False",
  "error_branch.features=8",
  "detail_branch.features=(8,8,8)",
  "transform.crop_size=(32,32)",
  "num_devices=1",
  *(f"stages.{stage}.{key}" for stage in STAGES for key in ("steps=2", "batch_size=4", "eval_every=0")),
)
SHORT = {
  "data check": ("data.num_classes=3",),
  "data stats": ("data.num_classes=3",),
  "train": TINY,
}
"""Command -> overrides that make it short, or fit the tiny set's three classes."""


def runs(command):
  """Whether a command of a page in RUN or NIGHTLY is run."""
  return not any(part in str(command.words) for part in NOT_RUN)


def short(command):
  """Its words, with what makes it short behind them."""
  name = next((n for n in SHORT if " ".join(command.words[1:]).startswith(n)), "")
  more = [f"--config.{key}" for key in SHORT.get(name, ())]
  given = {word.split("=")[0] for word in command.words}
  if "--config.data.num_classes" in given:
    more.append("--config.data.num_classes=3")
  if any("scenes_demo" in word for word in command.words):
    more += [f"--config.data.{key}" for key in ("num_train=8", "num_choose=4", "num_val=4")]
  if {"--workdir=runs/scenes", "--workdir=runs/swapped"} & {*command.words}:
    more.append("--config.order=semantic")  # the branches are trained above
  return [*command.words[1:], *dict.fromkeys(more)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, shared_data):
  """The reader's folder, as the pages name what is in it, after every command of RUN was run in it."""
  folder = tmp_path_factory.mktemp("reader")
  shutil.copytree(ROOT / "configs", folder / "configs")
  shutil.copytree(shared_data, folder / "data")
  for kind in ("images", "labels"):  # enough of them to hold some out
    for path in sorted((folder / "data" / kind / "train").iterdir()):
      for number in range(3):
        shutil.copy(path, path.with_stem(f"{path.stem}_{number}"))
  for name in ("photos", "pool"):
    shutil.copytree(shared_data / "images" / "val", folder / name)
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    # Commands set up logging, the cache and the platform of a whole process; this one has them.
    patch.setattr(commands, "prepare", lambda config, distributed="off": None)
    patch.setitem(resnet.BLOCKS, 10, (1, 1, 1, 1))
    done = []
    for command in (command for page in RUN for command in commands_of(page)):
      if runs(command) and command.words not in done:
        assert main(short(command)) == 0, f"{command}: {short(command)}"
        done.append(command.words)
  return folder


def test_every_command_is_run_or_has_a_reason():
  assert {command.page for command in COMMANDS} - {*RUN, *NIGHTLY} == {*PARSED}
  left_out = [command for command in COMMANDS if command.page not in PARSED and not runs(command)]
  for part in NOT_RUN:
    assert any(part in str(command.words) for command in left_out), part
  for page in (*RUN, *NIGHTLY):
    assert any(runs(command) for command in commands_of(page)), page


def test_the_lines_leave_what_the_pages_say(folder):
  runs = folder / "runs"
  assert {"results.json", "report.html", "config.json", "choice.json"} <= {
    p.name for p in (runs / "mine").iterdir()
  }
  assert (runs / "mine" / "predictions" / "predictions.csv").is_file()
  assert (runs / "mine" / "label_issues" / "label_issues.html").is_file()
  assert {"label_issues.html", "label_issues.csv", "images.csv"} <= {
    p.name for p in (runs / "issues").iterdir()
  }
  assert {"stats.json", "stats.svg"} <= {p.name for p in (runs / "stats").iterdir()}
  results = json.loads((runs / "improved" / "results.json").read_text())
  assert {"semantic", "detail", "fused", "error", "chosen", "image_level"} <= results.keys()
  assert {"baselines", "by_threshold"} <= results["error"].keys()


@pytest.mark.slow
def test_commands_of_the_other_pages(folder, monkeypatch):
  monkeypatch.chdir(folder)
  monkeypatch.setattr(commands, "prepare", lambda config, distributed="off": None)
  monkeypatch.setitem(resnet.BLOCKS, 10, (1, 1, 1, 1))
  shutil.copytree("runs/mine", "runs/third")
  for command in (command for page in NIGHTLY for command in commands_of(page)):
    if runs(command):
      words = [filled(word) for word in short(command)]
      assert main(words) == 0, f"{command}: {words}"
  assert {"report.html", "comparison.html"} <= {p.name for p in (folder / "runs" / "mine").iterdir()}
  assert (folder / "exported_again" / "card.json").is_file()


def filled(word):
  """A word with what the reader would write in place of W and the like."""
  flag, equals, value = word.rpartition("=")
  return f"{flag}{equals}{FILLED.get(value, value)}"


def test_the_table_of_predictions_is_what_the_tutorials_read(folder, monkeypatch):
  monkeypatch.chdir(folder)
  with (folder / "runs/photos/predictions.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
  names = {}
  for page in ("find_errors", "choose_images_to_annotate"):
    exec(snippets_of(f"docs/tutorials/{page}.md")[0], names)
  assert names["doubtful"] == [row["image"] for row in rows if float(row["expected_accuracy"]) < 85]
  assert len(names["chosen"]) == 5
  exec(snippets_of("docs/tutorials/choose_images_to_annotate.md")[1], names)
  apart = names["spread"](names["rows"], 2, 2)
  assert apart[0] == names["chosen"][0]
  assert len(apart) == 2
