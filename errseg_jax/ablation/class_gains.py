"""What a row gains on the classes that the base confuses, and on the others (P1, Tables 3 to 5)."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from errseg_jax import assemble
from errseg_jax.confusion import confusion
from errseg_jax.inference.confusion import load_confusion
from errseg_jax.train.workdir import load_config


def confusion_file(base: pathlib.Path) -> pathlib.Path:
  """Where the confusion matrix of a base's workdir is kept."""
  return base / "confusion" / "train.json"


def count_base(base: pathlib.Path) -> None:
  """Counts the confusion of a finished base on its training images, where that was not done."""
  if not confusion_file(base).exists():
    confusion(load_config(base), base, "train")


def confused_classes(config: ConfigDict, base: pathlib.Path) -> frozenset[str]:
  """Names of the classes in the groups of a seed: the config's, or those found in its base's confusion."""
  if config.groups.named:
    names = tuple(assemble.dataset(config).info.classes)
    return frozenset(names[index] for group in assemble.named_groups(config) for index in group)
  if not confusion_file(base).exists():
    return frozenset()
  counts, classes = load_confusion(confusion_file(base))
  groups = assemble.group_finder(config, classes)(counts)
  return frozenset(classes[index] for group in groups for index in group)


def class_gains(scores: Mapping[str, Any], base: Mapping[str, Any] | None, confused: frozenset[str]) -> dict:
  """Paired differences of the classes' IoU to the base of the seed, and their means inside and outside the groups.

  A class that either lacks has None and is in no mean; without a base, or without groups, the means are None.
  """
  own, other = scores["class_IoU"], base["class_IoU"] if base else {}
  pairs = {name: (value, other.get(name)) for name, value in own.items()}
  gains = {name: None if a is None or b is None else a - b for name, (a, b) in pairs.items()}
  known = {name: gain for name, gain in gains.items() if gain is not None}
  inside = [gain for name, gain in known.items() if name in confused]
  outside = [gain for name, gain in known.items() if name not in confused]
  return {
    "class_gain": gains,
    "confused": sorted(confused),
    "gain_inside_groups": sum(inside) / len(inside) if inside else None,
    "gain_outside_groups": sum(outside) / len(outside) if inside and outside else None,
  }
