"""Groups of confused classes of a config."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ml_collections import ConfigDict

from errseg_jax.assemble.data import dataset
from errseg_jax.assemble.sections import construct
from errseg_jax.data.class_groups import Groups, resolve
from errseg_jax.errors import UserError
from errseg_jax.metrics.class_groups import Discovery


def named_groups(config: ConfigDict) -> Groups:
  """The groups of confused classes that a config names.

  Raises:
    UserError: it names none, or one that is none of this data set's.
  """
  if not config.groups.named:
    raise UserError(
      "config.groups.named is empty: name tuples of classes, or take those that a trained network confuses: "
      "errseg confusion --workdir=W, then --config.segmenter.init=W"
    )
  return resolve(config.groups.named, dataset(config).info.classes)


def group_finder(config: ConfigDict, classes: Sequence[str]) -> Callable[[np.ndarray], Groups]:
  """(confusion matrix [C, C]) -> groups of confused classes: those that the config names, or those that are found.

  Raises:
    UserError: an unknown class or method, a number out of range, or groups that are none.
  """
  section = config.groups.to_dict()
  named = section.pop("named")
  discovery = construct(Discovery, section, "groups")
  if not named:
    return discovery
  groups = resolve(named, classes)
  return lambda counts: groups
