"""Every command of the pages is one that the product takes: its name, flags, config file, keys and values.

None is run here; `test_tutorials.py` runs those that can be.
"""

import re

import pytest

from errseg_jax.ablation.rows import ROWS
from errseg_jax.adapters import ADAPTERS
from errseg_jax.bench.command import NAMES
from errseg_jax.cli import find_command, parse
from errseg_jax.cli_flags import OWN_FLAGS
from errseg_jax.config_flags import load
from errseg_jax.convert.networks import NETWORKS
from errseg_jax.data.datasets import DATASETS
from errseg_jax.errors import UserError
from errseg_jax.models.backbones import BACKBONES
from errseg_jax.models.heads import HEADS
from errseg_jax.pixel_losses import PIXEL_LOSSES
from errseg_jax.planning.accelerators import parse as parse_devices
from errseg_jax.planning.program import per_device
from errseg_jax.submit import SERVERS
from errseg_jax.train.stages import plan
from tests.docs.pages import COMMANDS, PAGES, ROOT, Command, commands_of, text_of

SOME_CONFIG, OF_IMAGES = "configs/scenes_demo.py", "configs/folders.py"
"""Stand for the config of a workdir, and for CONFIG and C; the second where the images are said to lie somewhere."""
BEHIND = {"pixel": PIXEL_LOSSES, "adapter": ADAPTERS, "data": DATASETS, "backbone": BACKBONES, "head": HEADS}
"""Sections whose keys depend on their name."""
SPAN = re.compile(r"`([^`\n]+)`")


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)


def check(words):
  """Refuses what the product would refuse before it reads a file.

  Raises:
    UserError: an unknown command, flag, key, config file or value.
  """
  kind, *rest = words
  if kind == "make":
    targets = re.findall(r"^([\w.]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    if unknown := [word for word in rest if "=" not in word and word not in targets]:
      raise UserError(f"make has no target {unknown[0]}")
    return
  if kind == "python":
    if not (ROOT / rest[0]).is_file():
      raise UserError(f"{rest[0]} does not exist")
    return
  name, flags = find_command(rest)
  args = parse(name, flags)
  for flag, known in VALUES.items():
    given = [value for value in getattr(args, flag, "").split(",") if value]
    if unknown := [value for value in given if value not in known]:
      raise UserError(f"--{flag}={unknown[0]} is unknown")
  file = getattr(args, "config", "")
  if not file or file.split(":")[0] in ("C", "CONFIG"):
    placed = any(word.startswith("--config.data.root=") for word in args.overrides)
    load((OF_IMAGES if placed else SOME_CONFIG) + file[len(file.split(":")[0]) :], args.overrides)
    return
  config = load(file, args.overrides)
  if name in ("train", "plan", "ablate"):
    plan(config)  # a network to train, or one that is given
  if name == "plan":
    per_device(config, parse_devices(args.devices)[2])


VALUES = {
  "what": NAMES,
  "from": NETWORKS,
  "rows": [*ROWS, "correction", "confusion", "guidance", "bn_groups"],
  "scores": ("mc_dropout", "tta"),
  "by": ("max_probability", "error_map"),
  "drop": ("head", "class0"),
  "to": (*SERVERS, "array_record", "tfds"),
  "labels": ("corrected", "labels"),
  "distributed": ("auto", "off"),
}


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_is_one_of_ours(command):
  check(command.words)


@pytest.mark.parametrize(
  "line",
  [
    "errseg trian --workdir=W",
    "errseg train --wrokdir=W",
    "errseg train --config=configs/nowhere.py --workdir=W",
    "errseg train --config=configs/folders.py:smal --workdir=W",
    "errseg evaluate --workdir=W --config.view.mirror=True",
    "errseg evaluate --workdir=W --config.views.mirror=maybe",
    "errseg bench --what=everything",
    "errseg ablate --config=C --workdir=W --rows=base_longer,papr",
    "errseg convert --from=torchvision_unet --weights=F --out=D",
    "errseg train --config=configs/cityscapes_xception65_error_detail.py --workdir=W",
    "errseg plan --config=configs/scenes_demo.py --devices=v5e-64",
    "errseg plan --config=configs/scenes_demo.py --devices=v7",
    "make coffee",
    "python docs/nowhere.py",
  ],
)
def test_what_is_not_ours_is_refused(line):
  with pytest.raises(UserError):
    check(line.split())


def test_commands_are_found_in_the_pages(tmp_path, monkeypatch):
  text = (
    "```\nC=configs/folders.py\nerrseg train --config=$C --config.data.root=$CAMVID --workdir=W && errseg evaluate \\\n"
    "  --workdir=W  # scores\n"
    "errseg data check --config=C [--json] ...\n```\n1. one\n\n   ```sh\n   make demo SEED=1\n   ```\n\n"
    '```python\nerrseg.load("W")\n```\n```\nxpk workload --command="errseg doctor"\n```\n'
  )
  page = tmp_path / "page.md"
  page.write_text(text)
  assert [" ".join(command.words) for command in commands_of(str(page))] == [
    "errseg train --config=configs/folders.py --config.data.root=$CAMVID --workdir=W",
    "errseg evaluate --workdir=W",
    "errseg data check --config=C --json",
    "make demo SEED=1",
    "errseg doctor",
  ]


def is_key(path):
  """Whether a config has it, be it under another name of its section."""
  section, *rest = load(SOME_CONFIG, []), *path.split(".")
  if path in ("a.b", "section.key"):
    return True
  for i, name in enumerate(rest):
    if name in ("KEY", "STAGE", ""):
      return True
    if section is not None and name in section:
      section = section[name] if hasattr(section[name], "keys") else None
      continue
    classes = BEHIND.get(rest[i - 1], {}).values()
    return i == len(rest) - 1 and any(name in cls.__dataclass_fields__ for cls in classes)
  return True


@pytest.mark.parametrize("page", PAGES)
def test_flags_and_commands_within_sentences(page):
  wrong = []
  for span in SPAN.findall(text_of(page)):
    for key in re.findall(r"--config\.([\w.]+)", span):
      if not is_key(key):
        wrong.append(span)
    words = [word for word in span.split() if not word.startswith("--config") and word != "..."]
    if words[:1] == ["make"] and len(words) > 1:
      check(words[:2])
    if words[:1] == ["errseg"] and len(words) > 1 and words[1].islower() and words[1] != "--help":
      name, flags = find_command(words[1:])
      wrong += [span for f in flags if f.startswith("--") and f.split("=")[0] not in OWN_FLAGS[name]]
  assert wrong == []


def test_keys_within_sentences_are_looked_up():
  assert is_key("detail_loss.pixel.gamma")
  assert is_key("segmenter.adapter.folder")
  assert is_key("groups.KEY")
  assert not is_key("detail_loss.pixel.gama")
  assert not is_key("splits.chose")


def test_commands_print_as_they_stand():
  assert str(Command("README.md", ("make", "demo"))) == "README.md: make demo"
