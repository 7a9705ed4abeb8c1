"""What the site shows beside docs/: the README as its home, launch/ and the notebooks. A hook of mkdocs.

The pages link to each other by their places in the repository, as a reader of the repository follows them; here each
link is turned to where its target lies in the site. A notebook becomes a page with its pictures and what it prints.
"""

from __future__ import annotations

import base64
import json
import os
import pathlib
import posixpath
import re
from collections.abc import Callable
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
ANSI = re.compile(r"\x1b\[[0-9;]*m")
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)


def output_text(output: dict[str, Any], picture: str, alt: str) -> str:
  """An output of a cell as Markdown; empty for what goes to the log.

  Args:
    output: as the notebook holds it.
    picture: the name that a picture has in the site.
    alt: what stands for it.
  """
  data = output.get("data", {})
  if "image/png" in data:
    return f"![{alt}]({picture})"
  text = output.get("text", ()) if output.get("name") == "stdout" else data.get("text/plain", ())
  plain = ANSI.sub("", "".join(text)).strip("\n")
  return f"```text\n{plain}\n```" if plain else ""


def notebook_page(path: pathlib.Path) -> tuple[str, dict[str, bytes]]:
  """(Markdown, pictures by their names) of a notebook. The cell behind a picture is its caption, and stands for it."""
  cells = json.loads(path.read_text())["cells"]
  texts, pictures = [], {}
  for cell, after in zip(cells, [*cells[1:], {"source": ""}], strict=True):
    source = "".join(cell["source"])
    texts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    alt = "".join(after["source"]).split("\n\n")[0].strip("*")
    for output in cell.get("outputs", ()):
      name = f"{path.stem}_{len(pictures) + 1}.png"
      texts.append(output_text(output, name, alt))
      if "image/png" in output.get("data", {}):
        pictures[name] = base64.b64decode(output["data"]["image/png"])
  return "\n\n".join(filter(None, texts)), pictures


def further_files() -> dict[str, str]:
  """Repository path -> path in the site, of what does not lie in docs/."""
  files = {"README.md": "index.md"}
  for path in sorted((ROOT / "launch").rglob("*")):
    if path.is_file():
      name = str(path.relative_to(ROOT))
      files[name] = name.replace("README.md", "index.md")
  order = (ROOT / "docs" / "contents.md").read_text().find
  for path in sorted((ROOT / "notebooks").glob("*.ipynb"), key=lambda path: order(path.name)):
    files[f"notebooks/{path.name}"] = f"notebooks/{path.stem}.md"
  for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
    if (ROOT / name).is_file():
      files[name] = name
  return files


def on_config(config: Any) -> Any:
  """Names the further pages in the nav."""
  pages = [name for name in further_files().values() if name.endswith(".md") and name != "index.md"]
  for title, start in (("Launching", "launch/"), ("Notebooks", "notebooks/")):
    config.nav.append({title: [name for name in pages if name.startswith(start)]})
  config.nav.append({"The project": [name for name in pages if "/" not in name]})
  return config


def on_files(files: Files, config: Any) -> Files:
  """Brings the further files in."""
  for name, place in further_files().items():
    path = ROOT / name
    if path.suffix == ".ipynb":
      text, pictures = notebook_page(path)
      for name_of, content in {place: text, **{f"notebooks/{key}": p for key, p in pictures.items()}}.items():
        files.append(File.generated(config, name_of, content=content))
    else:
      files.append(File.generated(config, place, abs_src_path=str(path)))
  return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
  """Turns links between files of the repository into links of the site; a link to what is not in it into its text."""
  places = further_files()
  here = page.file.src_uri
  source = next((name for name, place in places.items() if place == here), f"docs/{here}")

  def turned(match: re.Match[str]) -> str:
    mark, text, target, anchor = match[1], match[2], match[3], match[4] or ""
    if not target or "://" in target or target.startswith("mailto:"):
      return match[0]
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    place = places.get(wanted, wanted.removeprefix("docs/") if wanted.startswith("docs/") else None)
    if place is None:
      return text if (ROOT / wanted).exists() else match[0]
    return f"{mark}[{text}]({posixpath.relpath(place, posixpath.dirname(here) or '.')}{anchor})"

  return outside_code(markdown, lambda text: LINK.sub(turned, text))


def outside_code(markdown: str, change: Callable[[str], str]) -> str:
  """A change of the text, the fenced code left alone."""
  out, start = [], 0
  for fence in FENCE.finditer(markdown):
    out += [change(markdown[start : fence.start()]), fence[0]]
    start = fence.end()
  return "".join([*out, change(markdown[start:])])


def on_pre_build(config: Any) -> None:
  """The API pages read the package of this checkout."""
  os.chdir(ROOT)
