"""The code on the pages is Python whose imports resolve; every name of ours that they mention exists."""

import ast
import importlib
import importlib.util
import re

import pytest

from errseg_jax.config_flags import check_keys, default_config, load
from tests.docs.pages import PAGES, ROOT, snippets_of, text_of

SNIPPETS = [(page, number, code) for page in PAGES for number, code in enumerate(snippets_of(page))]
NAME = re.compile(r"errseg_jax(?:\.\w+)+")
ELSEWHERE = ("tensorflow", "mxnet", "torch", "example")
"""Packages of snippets that run in the reader's other environment."""


def resolve(name):
  """The object of a dotted name.

  Raises:
    ImportError, AttributeError: there is none.
  """
  words = name.split(".")
  for count in range(len(words), 0, -1):
    if importlib.util.find_spec(words[0]) and is_module(".".join(words[:count])):
      found = importlib.import_module(".".join(words[:count]))
      for word in words[count:]:
        found = found.__dataclass_fields__[word] if word in fields(found) else getattr(found, word)
      return found
  raise ImportError(name)


def is_module(name):
  try:
    return importlib.util.find_spec(name) is not None
  except ModuleNotFoundError:
    return False


def fields(found):
  return getattr(found, "__dataclass_fields__", {})


def imported(code):
  """Dotted names that a snippet imports."""
  for node in ast.walk(ast.parse(code)):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("code", [c for *_, c in SNIPPETS], ids=[f"{page}-{n}" for page, n, _ in SNIPPETS])
def test_code_is_python_and_its_imports_resolve(code):
  compile(code, "page", "exec")
  for name in imported(code):
    if name.split(".")[0] not in ELSEWHERE:
      resolve(name)


CONFIGS = [(page, n, code) for page, n, code in SNIPPETS if "def get_config" in code]


@pytest.mark.parametrize("code", [c for *_, c in CONFIGS], ids=[f"{page}-{n}" for page, n, _ in CONFIGS])
def test_a_config_on_a_page_is_one(code, tmp_path):
  (tmp_path / "own.py").write_text(code)
  config = load(str(tmp_path / "own.py"), [])
  check_keys(config, default_config())


@pytest.mark.parametrize("page", PAGES)
def test_names_of_ours_exist(page):
  for name in NAME.findall(text_of(page)):
    resolve(name)


def test_files_of_ours_exist():
  places = r"`((?:errseg_jax|configs|tests|launch|docs|notebooks)/[\w./-]+\.(?:py|md|json|ipynb|sh|yaml))`"
  for page in PAGES:
    for name in re.findall(places, text_of(page)):
      assert (ROOT / name).exists() or "NAME" in name, f"{page}: {name}"


def test_what_does_not_exist_is_found():
  resolve("errseg_jax.losses.error.ErrorLoss.weights")
  resolve("errseg_jax.pixel_losses.Focal.gamma")
  for name in ("errseg_jax.losses.error.ErorLoss", "errseg_jax.nothing.at_all", "errseg_jax.config.papers"):
    with pytest.raises((ImportError, AttributeError)):
      resolve(name)


def test_each_numbered_equation_of_the_papers_has_its_code():
  text = text_of("docs/equations.md")
  parts = {part[:2]: part for part in text.split("\n## ")[1:]}
  rows = {
    paper: [line for line in part.splitlines() if line.startswith("| ")] for paper, part in parts.items()
  }
  for paper, numbers in {"P0": (1, 2, 3, 4, 5), "P1": (1, 2, 3, 4), "P3": (3, 4, 5, 6, 7, 8, 9)}.items():
    named = set()
    for line in rows[paper]:
      for first, last in re.findall(r"Eq\. (\d+)(?: to (\d+))?", line.split("|")[1]):
        assert NAME.search(line), line
        named |= set(range(int(first), int(last or first) + 1))
      named |= {int(n) for n in re.findall(r"and (\d+)", line.split("|")[1])}
    assert set(numbers) <= named, paper
