"""What surrounds the code: version, extras, package data, wheel, CI and the forms of issues."""

import fnmatch
import pathlib
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest
import yaml

import errseg_jax

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGE = ROOT / "errseg_jax"
DATA = sorted(
  str(p.relative_to(PACKAGE))
  for p in PACKAGE.rglob("*")
  if p.is_file() and p.suffix not in (".py", ".pyc") and "__pycache__" not in p.parts
)


def test_the_version_has_one_place_and_the_pages_follow_it():
  version = errseg_jax.__version__
  assert re.fullmatch(r"\d+\.\d+\.\d+", version)
  assert "version" not in PROJECT["project"]
  assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "errseg_jax.__version__"}
  assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
  newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
  assert newest[1] == version


def test_the_citation_has_what_the_format_asks_for():
  citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
  assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()
  assert citation["license"] == PROJECT["project"]["license"]
  assert all({"type", "title", "authors"} <= reference.keys() for reference in citation["references"])


def test_every_extra_that_is_told_of_exists():
  extras = PROJECT["project"]["optional-dependencies"].keys()
  named = set()
  for path in [
    ROOT / "README.md",
    ROOT / "Makefile",
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("launch/*"),
    *PACKAGE.rglob("*.py"),
  ]:
    if path.is_file():
      found = re.findall(r"(?:errseg-jax|\"\.)\[([a-z,]+)\]", path.read_text())
      named |= {name for names in found for name in names.split(",")}
  assert named <= extras
  assert {"gpu", "tpu", "keras", "onnx"} <= named


def test_the_images_extras_are_those_of_the_project():
  text = (ROOT / "launch" / "Dockerfile").read_text()
  devices = re.search(r"^ +(\w+) \| (\w+)\) extra=", text, re.MULTILINE)
  assert set(devices.groups()) <= PROJECT["project"]["optional-dependencies"].keys()


def test_package_data_covers_every_file_that_is_no_python():
  patterns = PROJECT["tool"]["setuptools"]["package-data"]["errseg_jax"]
  assert DATA
  assert [name for name in DATA if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)] == []
  assert [p for p in patterns if not any(fnmatch.fnmatch(name, p) for name in DATA)] == []


def test_the_workflow_runs_what_ci_runs():
  workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
  (job,) = workflow["jobs"].values()
  assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]
  assert (ROOT / ".ci" / "run").is_file()
  told = {c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", c)}
  assert set(job["strategy"]["matrix"]["python"]) == told
  assert PROJECT["project"]["requires-python"] == f">={min(told)}"


@pytest.mark.parametrize("path", sorted(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml")), ids=lambda p: p.name)
def test_forms_of_issues(path):
  form = yaml.safe_load(path.read_text())
  if path.name == "config.yml":
    assert form.keys() <= {"blank_issues_enabled", "contact_links"}
    return
  assert {"name", "description", "body"} <= form.keys()
  ids = [field["id"] for field in form["body"]]
  assert len(ids) == len(set(ids))
  assert all(field["attributes"]["label"] for field in form["body"])
  assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_contributing_names_what_exists():
  text = (ROOT / "CONTRIBUTING.md").read_text()
  targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
  assert set(re.findall(r"make (test|slow|parity|lint|proofs|dist)\b", text)) <= set(targets)
  paths = re.findall(r"`((?:tests|errseg_jax|\.ci|\.github)/[\w./]+)`", text)
  assert paths
  assert [p for p in paths if not (ROOT / p).exists()] == []


def test_the_wheel_is_built_clean_and_holds_everything(tmp_path):
  source, out = tmp_path / "source", tmp_path / "dist"
  for path in (*PACKAGE.rglob("*"), *(ROOT / "tests").glob("test_*.py")):
    if path.is_file() and "__pycache__" not in path.parts:
      (source / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
      (source / path.relative_to(ROOT)).write_bytes(path.read_bytes())
  for name in ("pyproject.toml", "README.md", "LICENSE"):
    (source / name).write_bytes((ROOT / name).read_bytes())
  build = [sys.executable, "-m", "build", "--no-isolation", f"--outdir={out}", str(source)]
  done = subprocess.run(build, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout + done.stderr
  assert "Deprecat" not in done.stdout + done.stderr
  files = sorted(out.iterdir())
  checked = subprocess.run(
    [sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True
  )
  assert checked.returncode == 0, checked.stdout
  wheel = next(path for path in files if path.suffix == ".whl")
  assert wheel.name == f"errseg_jax-{errseg_jax.__version__}-py3-none-any.whl"
  names = set(zipfile.ZipFile(wheel).namelist())
  info = f"errseg_jax-{errseg_jax.__version__}.dist-info/"
  modules = {str(p.relative_to(ROOT)) for p in PACKAGE.rglob("*.py")}
  own = {name for name in names if not name.startswith(info)}
  assert own == modules | {f"errseg_jax/{name}" for name in DATA}
  assert {f"{info}licenses/LICENSE", f"{info}entry_points.txt"} <= names
  archive = next(path for path in files if path.name.endswith(".tar.gz"))
  with tarfile.open(archive) as file:
    assert {"/".join(n.split("/")[1:]) for n in file.getnames()} >= own | {
      "README.md",
      "LICENSE",
      "pyproject.toml",
    }
