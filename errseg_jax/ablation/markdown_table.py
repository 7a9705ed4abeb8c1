"""A Markdown table of numbers over seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from errseg_jax.ablation.summary import deviation, mean

NONE = "-"


@dataclasses.dataclass(frozen=True)
class Table:
  """A Markdown table with what it says above it."""

  title: str
  text: str
  columns: tuple[str, ...]
  rows: tuple[tuple[str, ...], ...]

  def markdown(self) -> str:
    """The table; "" without rows."""
    if not self.rows:
      return ""
    lines = [f"## {self.title}", "", self.text, "", _line(self.columns)]
    lines += [_line(["---", *["---:"] * (len(self.columns) - 1)]), *map(_line, self.rows), ""]
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
  return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def spread(values: Sequence[float | None], signed: bool = False, digits: int = 2) -> str:
  """ "68.12 ± 0.40"; without a standard deviation of one seed, "-" where a seed has no value."""
  middle, width = mean(values), deviation(values)
  if middle is None:
    return NONE
  text = f"{middle:{'+' if signed else ''}.{digits}f}"
  return text if width is None else f"{text} ± {width:.{digits}f}"


def over_seeds(row: Mapping[str, Any], *path: str) -> list[float | None]:
  """A number of each seed's run, by its path of keys."""
  out = []
  for run in row["seeds"].values():
    value: Any = run
    for key in path:
      value = (value or {}).get(key)
    out.append(value)
  return out
