"""Writes the tables of docs/configs.md: `python docs/config_reference.py`, after a key is added.

Keys, defaults and meanings are those of the code: the comments of `errseg_jax/config.py`, and of sections that are the
arguments of a class the `Attributes` of its docstring.
"""

from __future__ import annotations

import ast
import inspect
import io
import pathlib
import re
import tokenize
from typing import Any

from ml_collections import ConfigDict

from errseg_jax import config as source
from errseg_jax import losses
from errseg_jax.adapters import ADAPTERS
from errseg_jax.assemble.sections import COMPUTED, defaults, with_defaults
from errseg_jax.data.datasets import DATASETS
from errseg_jax.models.backbones import BACKBONES
from errseg_jax.models.cascade import Refine
from errseg_jax.models.confusion_groups import ConfusionGroups
from errseg_jax.models.crf import GuidanceCRF
from errseg_jax.models.detail_branches import DETAIL_BRANCHES
from errseg_jax.models.error_branches import ERROR_BRANCHES
from errseg_jax.models.guidance import Guidance
from errseg_jax.models.heads import HEADS
from errseg_jax.pixel_losses import PIXEL_LOSSES

PAGE = pathlib.Path(__file__).with_name("configs.md")
MARK = "<!-- From here on written by docs/config_reference.py. -->\n"
PLACES = {  # function of config.py -> the section that it fills
  "stage": "stages.STAGE",
  "segmenter_section": "segmenter",
  "add_data_sections": "",
  "add_rest_sections": "",
  "default_config": "",
}
NAMED = {  # section -> the classes that its `name` chooses from
  "data": DATASETS,
  "segmenter.backbone": BACKBONES,
  "segmenter.head": HEADS,
  "segmenter.adapter": ADAPTERS,
  "error_branch": ERROR_BRANCHES,
  "detail_branch": DETAIL_BRANCHES,
}
CLASSES = {  # section -> the class that it is the arguments of
  "semantic_loss": losses.SemanticLoss,
  "error_loss": losses.ErrorLoss,
  "detail_loss": losses.DetailLoss,
  "subnets": ConfusionGroups,
  "subnets_loss": losses.SubnetsLoss,
  "guidance": Guidance,
  "guidance_loss": losses.GuidedLoss,
  "cascade": Refine,
  "cascade_loss": losses.CascadeLoss,
  "crf": GuidanceCRF,
}
PIXEL = "semantic_loss.pixel, detail_loss.pixel, subnets_loss.pixel"


def comments() -> dict[str, str]:
  """Key -> the comment beside its assignment in config.py, or on the lines above."""
  text = pathlib.Path(inspect.getfile(source)).read_text()
  tokens = tokenize.generate_tokens(io.StringIO(text).readline)
  found = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
  alone = {n for n, line in enumerate(text.splitlines(), 1) if line.lstrip().startswith("#")}
  out = {}
  for function in ast.parse(text).body:
    if not isinstance(function, ast.FunctionDef) or function.name not in PLACES:
      continue
    for node in ast.walk(function):
      if not isinstance(node, ast.Assign) or not ast.unparse(node.targets[0]).startswith("config."):
        continue
      key = ".".join(filter(None, (PLACES[function.name], ast.unparse(node.targets[0])[len("config.") :])))
      lines = [n for n in range(node.lineno, (node.end_lineno or 0) + 1) if n in found]
      above = node.lineno - 1
      while not lines and above in alone:
        above -= 1
      lines = lines or list(range(above + 1, node.lineno))
      out[key] = " ".join(found[n] for n in lines)
  return out


def attributes(cls: type) -> dict[str, str]:
  """Field -> what the docstring of the class, or of one that it extends, says of it."""
  out: dict[str, str] = {}
  for base in reversed(cls.__mro__):
    text = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2]
    block = re.split(r"\n(?=\S)", text)[0] if text else ""
    for entry in re.split(r"\n(?=  \w)", "\n" + block)[1:]:
      name, _, meaning = entry.partition(":")
      out[name.strip()] = " ".join(meaning.split())
  return out


def shown(value: Any) -> str:
  """A default as the command line takes it."""
  if isinstance(value, ConfigDict | dict):
    return "a section"
  if value in (None, ""):
    return "unset" if value is None else "empty"
  return f"`{escaped(str(value))}`"


def escaped(text: str) -> str:
  """Text in a cell of a table."""
  return text.replace("|", "\\|")


def table(rows: list[tuple[str, Any, str]]) -> list[str]:
  """Lines of a table of keys."""
  lines = [f"| `{key}` | {shown(value)} | {escaped(meaning)} |" for key, value, meaning in rows]
  return ["| key | default | |", "|---|---|---|", *lines, ""] if rows else []


def class_rows(cls: type, given: Any = None) -> list[tuple[str, Any, str]]:
  """The keys of a section that is the arguments of a class; `given` are the config's own defaults."""
  meanings, own = attributes(cls), defaults(cls)
  rows = [(name, dict(given or {}).get(name, own[name]), meanings.get(name, "")) for name in own]
  return [row for row in rows if row[0] not in COMPUTED and row[0] != "pixel"]


def first_line(cls: type) -> str:
  """What a class is."""
  return inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


def plain_rows(section: Any, where: str, notes: dict[str, str]) -> list[tuple[str, Any, str]]:
  """The keys of a section of config.py, those below it included; sections of classes are left to their own tables."""
  rows: list[tuple[str, Any, str]] = []
  for key in section:
    value, path = section.get(key), f"{where}.{key}"
    if path in NAMED or path in CLASSES:
      continue
    if isinstance(value, ConfigDict) and len(value):
      rows += [(f"{key}.{k}", v, m) for k, v, m in plain_rows(value, path, notes)]
    else:
      rows.append((key, value, notes.get(path, "")))
  return rows


def reference() -> str:
  """The tables of all sections, in the order of the config."""
  config, notes, lines = with_defaults(source.default_config()), comments(), []
  top = [
    (key, config.get(key), notes.get(key, ""))
    for key in config
    if not isinstance(config.get(key), ConfigDict)
  ]
  lines += ["## At the top", "", *table(top)]
  for key in config:
    section = config.get(key)
    if not isinstance(section, ConfigDict):
      continue
    lines += [f"## {key}", ""]
    if notes.get(key) and key not in NAMED:
      lines += [notes[key], ""]
    if key == "stages":
      lines += [
        f"`stages.STAGE` for STAGE of {', '.join(section)}; defaults here are those of `semantic`.",
        "",
      ]
      lines += table(plain_rows(section.semantic, "stages.STAGE", notes))
    elif key in CLASSES:
      lines += [first_line(CLASSES[key]), "", *table(class_rows(CLASSES[key], section))]
    elif key not in NAMED:
      lines += table(plain_rows(section, key, notes))
    for name, classes in NAMED.items():
      if name.split(".")[0] == key:
        lines += named(name, classes)
  lines += [
    f"## {PIXEL}",
    "",
    "[losses.md](losses.md) says when to take which.",
    "",
    *named("pixel", PIXEL_LOSSES),
  ]
  return "\n".join(lines).rstrip() + "\n"


def named(section: str, classes: dict[str, type]) -> list[str]:
  """A table for each class that a section's `name` may be."""
  lines = []
  for name, cls in classes.items():
    lines += [f"### {section}: {name}", "", first_line(cls), "", *table(class_rows(cls))]
  return lines


def page(text: str) -> str:
  """A page whose tables are written anew."""
  return text.partition(MARK)[0] + MARK + "\n" + reference()


if __name__ == "__main__":
  PAGE.write_text(page(PAGE.read_text()))
