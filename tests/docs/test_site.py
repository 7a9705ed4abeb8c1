"""The site builds without a warning, holds every page, and wants nothing from the network."""

import os
import re
import subprocess
import sys

import pytest

from tests.docs.pages import NOTEBOOKS, PAGES, ROOT

pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")


def build(repository, folder):
  """The finished process of the strict build. (With --quiet it would not count warnings.)"""
  words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
  environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
  return subprocess.run(words, cwd=repository, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
  """The built site."""
  folder = tmp_path_factory.mktemp("site")
  done = build(ROOT, folder)
  assert done.returncode == 0, done.stdout + done.stderr
  return folder


def test_every_page_is_there(site):
  for page in [*PAGES, *NOTEBOOKS]:
    name = page.removeprefix("docs/").rpartition(".")[0]
    name = "index" if name == "README" else name.replace("README", "index")
    text = (site / f"{name}.html").read_text()
    assert "<h1" in text, page


def test_no_file_of_ours_that_is_not_a_page(site):
  assert not list(site.glob("*.py"))
  assert (site / "demo.png").exists()
  assert (site / "launch" / "slurm.sbatch").exists()


def test_nothing_is_fetched(site):
  """Neither fonts nor scripts nor pictures of others; links are followed by the reader alone."""
  for path in site.rglob("*.html"):
    text = path.read_text()
    assert not re.findall(r"<(?:script|img|iframe|source)[^>]+src=\"?(?:https?:)?//", text), path.name
    assert not re.findall(r"<link[^>]+href=\"?(?:https?:)?//", text), path.name
  for path in site.rglob("*.css"):
    assert not re.findall(r"(?:url\(|@import)[\s\"']*(?:https?:)?//", path.read_text()), path.name


def test_links_between_the_readme_and_the_pages_are_turned(site):
  home = (site / "index.html").read_text()
  assert 'href="tutorials/improve_my_network.html"' in home
  assert 'src="demo.png"' in home
  assert 'href="index.html#results"' in (site / "cascade.html").read_text()
  assert 'href="launch/index.html"' in (site / "contents.html").read_text()


def test_notebooks_are_there_with_what_they_show(site):
  text = (site / "notebooks" / "quickstart.html").read_text()
  pictures = re.findall(r'<img alt="([^"]*)" src="([^"]*)"', text)
  assert [name for _, name in pictures] == ["quickstart_1.png", "quickstart_2.png"]
  assert pictures[0][0].startswith("Three street scenes.")
  assert all((site / "notebooks" / name).read_bytes().startswith(b"\x89PNG") for _, name in pictures)
  assert "choice.json" in text  # printed
  assert "\x1b[" not in text


def test_notebooks_come_in_the_order_of_all_pages(site):
  places = re.findall(r'href="notebooks/(\w+)\.html"', (site / "contents.html").read_text())
  assert places[0] == "quickstart"
  assert {*places} == {path.rpartition("/")[2].removesuffix(".ipynb") for path in NOTEBOOKS}


def test_docstrings_are_in_the_reference(site):
  text = (site / "api.html").read_text()
  for name in ("errseg_jax.load", "errseg_jax.config.default_config", "errseg_jax.structs.Prediction"):
    assert f'id="{name}"' in text
  assert "The resolved config" in text or "Everything that can be set" in text


def test_a_dead_link_ends_it(tmp_path):
  copy = tmp_path / "repository"
  names = ("docs", "launch", "notebooks", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "mkdocs.yml")
  copy.mkdir()
  for name in names:
    if (ROOT / name).is_dir():
      subprocess.run(["cp", "-r", str(ROOT / name), str(copy)], check=True)
    elif (ROOT / name).is_file():
      (copy / name).write_text((ROOT / name).read_text())
  (copy / "errseg_jax").symlink_to(ROOT / "errseg_jax")
  with (copy / "docs" / "faq.md").open("a") as file:
    file.write("\n[nowhere](nowhere.md)\n")
  done = build(copy, tmp_path / "site")
  assert done.returncode != 0
  assert "nowhere.md" in done.stdout + done.stderr
