"""Data flows one way: a module imports only what stands before it in ORDER."""

import ast
import pathlib

import pytest

import errseg_jax

ROOT = pathlib.Path(errseg_jax.__file__).parent
ORDER = (
  "errors",
  "structs",
  "host_memory",
  "processes",
  "progress",
  "sharding",
  "config",
  "data",
  "metrics",
  "models",
  "adapters",
  "pixel_losses",
  "kernels",
  "losses",
  "assemble",
  "config_flags",
  "inference",
  "train",
  "convert",
  "prediction_log",
  "predict",
  "export",
  "submit",
  "evaluate",
  "compare",
  "tune",
  "bench",
  "planning",
  "report",
  "serve",
  "label_issues",
  "confusion",
  "ablation",
  "prepare",
  "doctor",
  "commands",
  "cli_flags",
  "cli",
)
FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def imports(path):
  """Dotted names that a file imports, wherever in it."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: imports are absolute"
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(path):
  return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_back_along_the_data_flow(path):
  own = ORDER.index(part(path))
  for name in imports(path):
    package, _, rest = name.partition(".")
    if package != "errseg_jax" or not rest:
      continue
    target = rest.split(".")[0]
    assert ORDER.index(target) <= own, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_long_and_none_needs_tensorflow_or_torch(path):
  assert len(path.read_text().splitlines()) <= 400
  top = ast.parse(path.read_text()).body
  names = [
    alias.name if isinstance(node, ast.Import) else node.module
    for node in top
    if isinstance(node, ast.Import | ast.ImportFrom)
    for alias in node.names
  ]
  assert not [n for n in names if n.split(".")[0] in ("tensorflow", "torch", "torchvision")]
