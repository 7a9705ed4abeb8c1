"""docs/configs.md says of every key what the code says: it is written by docs/config_reference.py."""

import importlib.util
import pathlib

import pytest
from ml_collections import ConfigDict

from errseg_jax.assemble import with_defaults
from errseg_jax.config import default_config
from tests.docs.pages import ROOT, text_of

PAGE = "docs/configs.md"


@pytest.fixture(scope="module")
def reference():
  spec = importlib.util.spec_from_file_location("config_reference", ROOT / "docs" / "config_reference.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_the_page_is_of_today(reference):
  text = text_of(PAGE)
  assert reference.page(text) == text, "python docs/config_reference.py writes it anew"


def test_every_key_is_named(reference):
  text = text_of(PAGE)

  def keys(section, where=""):
    for key in section:
      value = section.get(key)
      if isinstance(value, ConfigDict) and len(value):
        yield from keys(value, f"{where}{key}.")
      elif not isinstance(value, ConfigDict):
        yield where, key

  sections = {part.splitlines()[0]: part for part in text.split("\n## ")}
  for where, key in keys(with_defaults(default_config())):
    name = reference.PIXEL if ".pixel." in where else where.split(".")[0]
    part = sections[name or "At the top"]
    assert f"`{key}`" in part or f".{key}`" in part or key in ("name", "pixel"), f"{where}{key}"


def test_every_key_of_the_config_has_a_meaning(reference):
  """Beside it or, of the two that have one sentence for all their keys, above."""
  config, notes = with_defaults(default_config()), reference.comments()
  for key in config:
    section = config.get(key)
    if isinstance(section, ConfigDict) and key not in (
      *("early_exit", "sparse", "stages"),
      *reference.CLASSES,
      *reference.NAMED,
    ):
      rows = reference.plain_rows(section, key, notes)
      assert [name for name, _, meaning in rows if not meaning] == [], key
  assert all(meaning for *_, meaning in reference.plain_rows(config.stages.error, "stages.STAGE", notes))


def test_comments_are_those_beside_the_key(reference):
  notes = reference.comments()
  assert (
    notes["splits.runs"]
    == "of neighbours, such as video frames, that held-out images lie in; 0: single images"
  )
  assert notes["stages.STAGE.batch_size"] == "images per step, over all devices"
  assert notes["train.remat"].startswith("The backward pass")
  assert notes["splits.folds"] == 'of "crossfit"'


def test_meanings_are_those_of_the_class_and_what_it_extends(reference):
  from errseg_jax.models.layer_cascade import LayerCascade

  meanings = reference.attributes(LayerCascade)
  assert meanings["decoders"].startswith("how many")
  assert meanings["residual"].startswith("the branch adds")


def test_every_config_file_and_its_arguments_are_on_the_page():
  text = text_of(PAGE).split("<!--")[0]
  for path in sorted((ROOT / "configs").glob("*.py")):
    rows = [line for line in text.splitlines() if any(named(path, cell) for cell in line.split("`"))]
    assert rows, path.name
    known = (
      path.read_text().rpartition("known: ")[2].partition('"')[0] if "known: " in path.read_text() else ""
    )
    for arg in filter(None, known.split(", ")):
      assert any(f"`{arg}`" in row for row in rows), f"{path.name}: {arg}"


def named(path, cell):
  return cell.startswith("configs/") and pathlib.PurePath(f"configs/{path.name}").match(cell)
