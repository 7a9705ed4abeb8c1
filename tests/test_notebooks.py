"""The notebooks run from the first cell to the last, in their short form."""

import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = pathlib.Path(__file__).parents[1] / "notebooks"


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
  monkeypatch.setenv("FAST", "1")
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  monkeypatch.setenv("TMPDIR", str(tmp_path))
  notebook = nbformat.read(path, as_version=4)
  folder = {"metadata": {"path": str(NOTEBOOKS)}}
  NotebookClient(notebook, timeout=600, kernel_name="python3", resources=folder).execute()
  pictures = [
    out for cell in notebook.cells for out in cell.get("outputs", ()) if "image/png" in out.get("data", {})
  ]
  assert pictures
