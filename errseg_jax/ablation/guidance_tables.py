"""P3's tables on the data at hand: true classes known, pooling of views, and the steps of the method in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from errseg_jax.ablation.guidance_rows import GUIDANCE
from errseg_jax.ablation.markdown_table import Table, over_seeds, spread
from errseg_jax.ablation.rows import BASE, FAMILIES

Line = tuple[str, str, str]
"""(what it says, name of the row, its number)."""
KNOWN: tuple[Line, ...] = (
  ("without the true classes", "base_views", "mIoU"),
  ("with them", "base_views", "oracle_mIoU"),
)
POOLING: tuple[Line, ...] = (
  ("mean", "guided_mean", "mIoU"),
  ("maximum", "guided_max", "mIoU"),
  ("(mean + maximum) / 2", "guided_mean_max", "mIoU"),
  ("learned", "guided_learned", "mIoU"),
)
STEPS: tuple[Line, ...] = (
  ("base, mean of six views", "base_views", "mIoU"),
  ("+ guidance", "guided_mean", "mIoU"),
  ("+ compatibility by the image's classes (CRF)", "guided_mean_crf", "mIoU"),
  ("+ learned combination", "guided_all", "mIoU"),
  ("+ true classes", "guided_all", "oracle_mIoU"),
)


def guidance_tables(rows: Mapping[str, Any]) -> tuple[Table, ...]:
  """All rows of P3, and the paper's Tables 1 to 3 as far as their rows are there; empty without any."""
  if not {*rows} & {*GUIDANCE}:
    return ()
  return (
    everything(rows),
    lines(
      "True classes known (P3, Table 1)",
      "The base in six views, restricted to the classes of the annotation.",
      KNOWN,
      rows,
    ),
    lines("Pooling of six views (P3, Table 2)", "Of the guided network.", POOLING, rows),
    lines("Step by step (P3, Table 3)", "Each line adds to the one before it.", STEPS, rows),
  )


def lines(title: str, text: str, wanted: Sequence[Line], rows: Mapping[str, Any]) -> Table:
  """mIoU of each line whose row is there, and its paired difference to the first of them."""
  found = [
    (what, over_seeds(rows[name], key), rows[name]["seeds"]) for what, name, key in wanted if name in rows
  ]
  out = []
  for what, values, seeds in found:
    first = dict(zip(found[0][2], found[0][1], strict=True))
    gains = [
      v - first[s] for s, v in zip(seeds, values, strict=True) if v is not None and first.get(s) is not None
    ]
    paired = spread(gains, True) if what != found[0][0] and len(gains) == len(values) else ""
    out.append((what, spread(values), paired))
  return Table(title, text, ("", "mIoU", "to the first line"), tuple(out))


def everything(rows: Mapping[str, Any]) -> Table:
  """Every row of the family, with what the true classes of each image would give and how well g names them."""
  keys = (
    ("mIoU", False),
    ("aAcc", False),
    ("vs_base", True),
    ("vs_base_longer", True),
    ("oracle_mIoU", False),
  )
  out = []
  for name in (name for name in rows if name in FAMILIES["guidance"]):
    cells = [spread(over_seeds(rows[name], key), signed and name != BASE) for key, signed in keys]
    cells += [spread(over_seeds(rows[name], key)) for key in ("presence_mAP", "presence_mF1")]
    out.append((f"`{name}`: {rows[name]['description']}", *cells))
  text = (
    "With the true classes: the same labels where no class is named that the image's annotation does not show. mAP and "
    "mF1: how well the global scores name the classes of an image."
  )
  heads = ("mIoU", "aAcc", "to base", "to base_longer", "mIoU with the true classes", "mAP", "mF1")
  return Table("Guidance (P3)", text, ("row", *heads), tuple(out))
