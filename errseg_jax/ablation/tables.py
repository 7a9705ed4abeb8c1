"""ablation.md: the tables of P0 on the data at hand, with mean and standard deviation over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from errseg_jax.ablation.bn_group_rows import SIZES, WHOLE
from errseg_jax.ablation.guidance_tables import guidance_tables
from errseg_jax.ablation.markdown_table import NONE, Table, over_seeds, spread
from errseg_jax.ablation.rows import BASE
from errseg_jax.ablation.summary import ERROR_SCORES


def markdown(summary: Mapping[str, Any]) -> str:
  """All of ablation.md."""
  rows = {name: row for name, row in summary["rows"].items() if row["seeds"]}
  tables = (
    comparison(rows),
    confused_classes(rows),
    *guidance_tables(rows),
    bn_groups(rows),
    errors(rows),
    sweep(rows),
    retrained(rows),
    calibration(rows),
    cost(rows),
  )
  return "\n".join([header(summary), *filter(None, (table.markdown() for table in tables))])


def header(summary: Mapping[str, Any]) -> str:
  """What was compared, on what, and what is missing."""
  seeds = summary["seeds"]
  found = [run["hardware"] for row in summary["rows"].values() for run in row["seeds"].values()]
  hardware = sorted({f"{h['platform']} {h['device']}, jax {h['jax']}" for h in found})
  lines = [
    f"# Ablation: {summary['dataset']}, split {summary['split']}",
    "",
    f"Seeds {', '.join(map(str, seeds))}; {'; '.join(hardware) or 'no run is finished'}. Percent; mean ± standard "
    "deviation over seeds. Differences are paired: taken within each seed, then averaged.",
  ]
  if summary["missing"]:
    lines.append(
      f"**Not finished: {', '.join(summary['missing'])}.** A row's means are over the seeds it has."
    )
  lines += [f"- `{run}` failed: {' '.join(why.split())}" for run, why in summary["failed"].items()]
  return "\n".join([*lines, ""])


def comparison(rows: Mapping[str, Any]) -> Table:
  """P0, Table 3: label maps of every row."""
  out = []
  for name, row in rows.items():
    cells = [spread(over_seeds(row, key)) for key in ("mIoU", "aAcc")]
    cells += [spread(over_seeds(row, k), True) for k in ("vs_base", "vs_base_longer", "vs_own_network")]
    cells += [f"{row['steps']:,}", f"{row['image_passes']:,}", budget_note(name, row), str(len(row["seeds"]))]
    out.append((f"`{name}`: {row['description']}", *cells))
  text = (
    "What each row hands out. `base_longer` is the control: the same network trained on for as many steps as "
    "both branches; a gain over the base that is no gain over it is training time. Own network: the frozen network "
    "that the row's branches correct. Steps and image passes count all that was trained for the row, the "
    "base included; budget: steps on top of one semantic network against those of both branches."
  )
  heads = (
    "mIoU",
    "aAcc",
    "to base",
    "to base_longer",
    "to own network",
    "steps",
    "images",
    "budget",
    "seeds",
  )
  return Table("Comparison (P0, Table 3)", text, ("row", *heads), tuple(out))


def confused_classes(rows: Mapping[str, Any]) -> Table:
  """P1, Tables 3 to 5: the gain on the classes that the base confuses apart from the others."""
  keys = ("vs_base", "gain_inside_groups", "gain_outside_groups")
  out = tuple(
    (f"`{name}`", *(spread(over_seeds(row, key), True) for key in keys))
    for name, row in rows.items()
    if name != BASE and any(value is not None for value in over_seeds(row, "gain_inside_groups"))
  )
  text = (
    "Paired differences to the base of the seed: mIoU, and the mean over the classes in the groups that were "
    "found in that base's confusion, and over the others."
  )
  return Table("Confused classes (P1, Table 3)", text, ("row", "mIoU", "in groups", "outside"), out)


def bn_groups(rows: Mapping[str, Any]) -> Table:
  """P3, the number of images that batch normalisation takes its statistics over."""
  whole = rows.get(WHOLE, {"seeds": {}})["seeds"]
  out = []
  for name, size in SIZES.items():
    runs = rows.get(name, {"seeds": {}})["seeds"]
    gains = [run["mIoU"] - whole[seed]["mIoU"] for seed, run in runs.items() if seed in whole]
    gain = spread(gains, True) if name != WHOLE and len(gains) == len(runs) else NONE
    if runs:
      scores = spread([run["mIoU"] for run in runs.values()])
      out.append((str(size or "all"), scores, gain, str(len(runs))))
  text = "The semantic network trained anew with statistics over g images of each batch; paired differences."
  heads = ("g", "mIoU", "to the whole batch", "seeds")
  return Table("Groups of batch normalisation (P3)", text, heads, tuple(out))


def budget_note(name: str, row: Mapping[str, Any]) -> str:
  """Whether the row took as many steps on top of the base as the config's branches."""
  if name == BASE:
    return NONE
  return "equal" if not row["over_budget"] else f"**{row['over_budget']:+,} steps**"


def errors(rows: Mapping[str, Any]) -> Table:
  """How well the errors are found: what a network gives for nothing, and P_ep."""
  known = {key for run in rows.get(BASE, {"seeds": {}})["seeds"].values() for key in run["baselines"]}
  out = []
  for name, row in rows.items():
    free = sorted({key for run in row["seeds"].values() for key in run["baselines"]})
    new = [key for key in free if name == BASE or key not in known]
    out += [_score_line(f"`{name}`: {key}", row, ("baselines", key)) for key in new]
    if any(value is not None for value in over_seeds(row, "AUPR_error")):
      gain = spread(over_seeds(row, "AUPR_vs_max_probability"), True)
      out.append((*_score_line(f"`{name}`: **P_ep**", row, ())[:-1], gain))
  heads = (*ERROR_SCORES, "AUPR_error to max probability")
  text = (
    "Errors of the frozen network, void pixels left out, all pixels pooled. FPR95, AURC, AUGRC and ECE: lower is "
    "better. P_ep is calibrated where the row calibrates it. Rows with a network of their own predict other "
    "errors than the base's: compare them by their difference to their own max probability."
  )
  return Table("Finding the errors", text, ("score", *heads), tuple(out))


def _score_line(head: str, row: Mapping[str, Any], path: tuple[str, ...]) -> tuple[str, ...]:
  return (head, *(spread(over_seeds(row, *path, name)) for name in ERROR_SCORES), "")


def sweep(rows: Mapping[str, Any], wanted: Sequence[str] = ("paper", "default")) -> Table:
  """P0, Table 1: the threshold on P_ep at inference."""
  out = []
  for name in wanted:
    runs = [run["by_threshold"] for run in rows.get(name, {"seeds": {}})["seeds"].values()]
    for lines in zip(*runs, strict=True):
      values = [spread([line[key] for line in lines]) for key in ("IoU", "hard_recall", "mIoU")]
      out.append((f"`{name}`, t = {lines[0]['t']:g}", *values))
  text = (
    "A pixel is flagged where P_ep > t (raw in `paper`, calibrated in `default`); error IoU: of the flagged with the "
    "wrong pixels; hard recall: flagged among the errors with max P > rho; mIoU with the detail labels there."
  )
  return Table("Threshold (P0, Table 1)", text, ("row", "error IoU", "hard recall", "mIoU"), tuple(out))


def retrained(rows: Mapping[str, Any]) -> Table:
  """P0, Table 2: the detail branch trained again for each threshold."""
  at = {0.5: "paper_t0.5", 0.6: "paper_t0.6", 0.7: "paper", 0.8: "paper_t0.8"}
  out = tuple(
    (f"{t}", spread(over_seeds(rows[name], "mIoU")), spread(over_seeds(rows[name], "vs_base"), True))
    for t, name in at.items()
    if name in rows
  )
  text = "The paper's recipe, its detail branch trained and fused at each threshold."
  return Table("Threshold, trained again (P0, Table 2)", text, ("t", "mIoU", "to base"), out)


def calibration(rows: Mapping[str, Any]) -> Table:
  """ECE of P_ep before and after calibration; the error map's word on whole images."""
  keys = ("ECE_before", "ECE_after", "accuracy_mae", "accuracy_corr", "hard_ratio")
  out = tuple(
    (f"`{name}`", *(spread(over_seeds(row, key)) for key in keys))
    for name, row in rows.items()
    if any(value is not None for value in over_seeds(row, "ECE_after"))
  )
  text = (
    "ECE of P_ep raw and calibrated (15 bins); expected against real accuracy of an image: mean absolute error in "
    "percent points and correlation; hard ratio: errors with max P > rho among the errors."
  )
  heads = ("ECE raw", "ECE calibrated", "accuracy MAE", "accuracy correlation", "hard ratio")
  return Table("Reliability", text, ("row", *heads), out)


def cost(rows: Mapping[str, Any]) -> Table:
  """What each row's network costs, and its training."""
  out = []
  for name, row in rows.items():
    parts = [(_part(row[k], True), _part(row[k], False)) for k in ("parameters", "multiply_adds")]
    (own, extra), (adds, extra_adds) = parts
    ms = [
      spread(over_seeds(row, "speed", f"{part}_ms"), digits=1)
      for part in ("semantic", "guidance", "subnets", "error", "detail")
    ]
    training = spread([v and v / 60 for v in over_seeds(row, "seconds")], digits=1)
    millions = (own / 1e6, extra / 1e6, adds / 1e9, extra_adds / 1e9)
    out.append((f"`{name}`", *(f"{number:.2f}" for number in millions), *ms, training))
  size = next((row["image_size"] for row in rows.values()), (0, 0))
  text = (
    f"Parameters (millions) and multiply-adds (G) of network and branches, milliseconds per image of "
    f"{size[0]}x{size[1]} pixels as evaluated, minutes of the row's own training steps."
  )
  heads = (
    "network M",
    "branches M",
    "network G",
    "branches G",
    "network ms",
    "of it guidance",
    "of it subnets",
    "error ms",
    "detail ms",
    "minutes",
  )
  return Table("Cost", text, ("row", *heads), tuple(out))


def _part(groups: Mapping[str, int], network: bool) -> int:
  return sum(value for group, value in groups.items() if group.startswith("segmenter") == network)
