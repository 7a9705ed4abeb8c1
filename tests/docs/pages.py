"""What the pages say: their commands and their code."""

import dataclasses
import json
import pathlib
import re
import shlex

ROOT = pathlib.Path(__file__).parents[2]
PAGES = ["README.md", *(f"launch/{name}.md" for name in ("README", "xpk"))]
PAGES += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
PAGES += [name for name in ("CONTRIBUTING.md", "CHANGELOG.md") if (ROOT / name).is_file()]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
SHELL = ("", "sh", "bash", "console")
OURS = ("errseg", "make", "python")


@dataclasses.dataclass(frozen=True)
class Command:
  """A command of a page, as its words.

  Attributes:
    page: where it stands.
    words: without comments; `$NAME` that the same block sets is filled in, "..." left out.
  """

  page: str
  words: tuple[str, ...]

  def __str__(self) -> str:
    return f"{self.page}: {' '.join(self.words)}"


def text_of(page: str) -> str:
  """A page; of a notebook what its text cells say."""
  text = (ROOT / page).read_text()
  if not page.endswith(".ipynb"):
    return text
  return "\n\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")


def commands_of(page: str) -> list[Command]:
  """Every command of ours in the fenced blocks of a page."""
  found = []
  for indent, kind, body in FENCE.findall(text_of(page)):
    if kind not in SHELL:
      continue
    variables: dict[str, str] = {}
    whole = re.sub(rf"^{indent}", "", body, flags=re.MULTILINE).replace("\\\n", " ")
    lines = [re.sub(r"\s#(\s.*)?$", "", line) for line in whole.splitlines()]
    for line in (part.strip() for parts in lines for part in parts.split("&&")):
      if match := re.fullmatch(r"(?:export )?(\w+)=(\S+)", line):
        variables[match[1]] = match[2]
      words = words_of(line, variables)
      nested = next((w.removeprefix("--command=") for w in words if w.startswith("--command=")), None)
      words = words_of(nested, variables) if nested else words
      if words and words[0] in OURS:
        found.append(Command(page, tuple(words)))
  return found


def words_of(line: str, variables: dict[str, str]) -> list[str]:
  """Words of a line; an optional part in brackets counts as given."""
  for name, value in variables.items():
    line = re.sub(rf"\${name}\b", lambda _, value=value: value, line)
  line = re.sub(r"\[(--[^\]]*)\]", r"\1", line)
  if line.split(" ")[0] not in (*OURS, "xpk"):
    return []
  return [word for word in shlex.split(line) if word != "..."]


def snippets_of(page: str) -> list[str]:
  """Python code of the fenced blocks of a page."""
  return [
    re.sub(rf"^{indent}", "", body, flags=re.MULTILINE)
    for indent, kind, body in FENCE.findall(text_of(page))
    if kind == "python"
  ]


NOTEBOOKS = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
COMMANDS = [command for page in PAGES for command in commands_of(page)]
