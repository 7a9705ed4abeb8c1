"""The notebooks run from the first cell to the last, in their short form; as committed they have been run in full."""

import pathlib
import re

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = pathlib.Path(__file__).parents[1] / "notebooks"
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def outputs(notebook):
  return [out for cell in notebook.cells for out in cell.get("outputs", ())]


def pictures(notebook):
  return [out for out in outputs(notebook) if "image/png" in out.get("data", {})]


@every_notebook
def test_a_notebook_runs(path, tmp_path, monkeypatch):
  monkeypatch.setenv("FAST", "1")
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  monkeypatch.setenv("TMPDIR", str(tmp_path))
  notebook = nbformat.read(path, as_version=4)
  folder = {"metadata": {"path": str(NOTEBOOKS)}}
  NotebookClient(notebook, timeout=600, kernel_name="python3", resources=folder).execute()
  assert pictures(notebook)


@every_notebook
def test_a_notebook_was_run_in_full_and_in_order(path):
  notebook = nbformat.read(path, as_version=4)
  code = [cell for cell in notebook.cells if cell.cell_type == "code"]
  assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
  assert len(pictures(notebook)) >= 2
  assert not [out for out in outputs(notebook) if out.output_type == "error"]
  assert path.stat().st_size < 1_500_000


@every_notebook
def test_a_notebook_says_how_long_it_takes_and_has_a_short_form(path):
  notebook = nbformat.read(path, as_version=4)
  assert re.search(r"takes about \d+ minutes? on two CPU cores", notebook.cells[0].source)
  assert "`FAST=1`" in notebook.cells[0].source
  code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
  assert 'FAST = bool(os.environ.get("FAST"))' in code[0]
  for source in code:
    assert not re.search(r"""["'](/home|/root|/work|/Users|[A-Z]:\\)""", source)


@every_notebook
def test_pictures_have_words(path):
  """A cell that draws is followed by a caption, for those who cannot see it."""
  notebook = nbformat.read(path, as_version=4)
  for cell, after in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
    if cell.cell_type == "code" and any("image/png" in out.get("data", {}) for out in cell.outputs):
      assert after is not None
      assert after.cell_type == "markdown"
      assert after.source.startswith("*"), cell.source
