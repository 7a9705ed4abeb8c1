"""Groups of classes by name: those that Geng et al. published, and those written in a config.

Source: Geng et al., "A Network Structure to Explicitly Reduce Confusion Errors in Semantic Segmentation", Table 1 and
Sec. 4.2.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from errseg_jax.errors import UserError

Groups = tuple[tuple[int, ...], ...]
"""Classes of each group, by index."""

PUBLISHED: dict[str, tuple[tuple[str, ...], ...]] = {
  "cityscapes": (
    ("building", "wall", "fence", "pole", "traffic light", "traffic sign"),
    ("car", "truck", "bus", "train"),
    ("person", "rider", "motorcycle", "bicycle"),
  ),
  "voc": (("background", "chair", "diningtable", "pottedplant", "sofa"),),
}


def check_groups(groups: Sequence[Sequence[int]], num_classes: int, classes: Sequence[str] = ()) -> None:
  """Refuses groups that no subnet could be built for; a class in no group is fine.

  Args:
    groups: classes of each group.
    num_classes: C.
    classes: the C names, for the messages; () numbers them.

  Raises:
    UserError: an empty group, one of a single class, an unknown class, or a class named twice.
  """
  place: dict[int, int] = {}
  for number, group in enumerate(groups, 1):
    if not group:
      raise UserError(f"group {number} is empty: name two classes or more, or leave the group out")
    for index in group:
      if not 0 <= index < num_classes:
        raise UserError(f"group {number}: there is no class {index}; classes are 0..{num_classes - 1}")
      name = repr(classes[index]) if classes else f"class {index}"
      if index in place:
        where = "twice" if place[index] == number else f"in group {place[index]} too"
        raise UserError(f"group {number}: {name} is named {where}; a class is in one group or in none")
      place[index] = number
    if len(group) == 1:
      raise UserError(f"group {number} has {name} alone: a group tells two classes or more apart")


def resolve(groups: str | Sequence[str] | Sequence[Sequence[str]], classes: Sequence[str]) -> Groups:
  """Groups by index, the classes of each in ascending order.

  Args:
    groups: a name of PUBLISHED, alone or as ("cityscapes",), or the class names of each group.
    classes: the C class names of the data set.

  Raises:
    UserError: an unknown name (says the nearest), or as `check_groups`.
  """
  if isinstance(groups, str):
    groups = (groups,)
  if len(groups) == 1 and isinstance(groups[0], str) and groups[0] in PUBLISHED:
    groups = PUBLISHED[groups[0]]
  if not all(isinstance(group, tuple | list) for group in groups):
    raise UserError(
      f"groups {groups!r}: write a name of {', '.join(PUBLISHED)}, or the classes of each group as "
      "(('car', 'truck'), ('person', 'rider'))"
    )
  found = [[_index(name, classes, number) for name in group] for number, group in enumerate(groups, 1)]
  check_groups(found, len(classes), classes)
  return tuple(tuple(sorted(group)) for group in found)


def _index(name: str, classes: Sequence[str], number: int) -> int:
  if name in classes:
    return tuple(classes).index(name)
  near = difflib.get_close_matches(str(name), classes, 1)
  hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(classes)}"
  raise UserError(f"group {number}: {name!r} is no class of this data set; {hint}")
