"""What training changes, and what it must not."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

Variables = dict[str, Any]
"""{"params": {group: tree}, "batch_stats": {group: tree}}: a model's variables by collection, then group."""


@struct.dataclass
class TrainState:
  """The trained groups of one stage.

  Attributes:
    step: int32, optimizer steps done in this stage.
    variables: trained groups by collection.
    opt_state: slots for the trained parameters only.
    ema: averaged copy of the trained variables, or None.
  """

  step: jax.Array
  variables: Variables
  opt_state: Any
  ema: Variables | None

  @classmethod
  def create(cls, variables: Variables, tx: optax.GradientTransformation, ema: bool) -> TrainState:
    """The state at step 0. Its arrays are copies: the step donates them."""
    own = jax.tree.map(jnp.copy, variables)
    averaged = jax.tree.map(jnp.copy, variables) if ema else None
    return cls(jnp.zeros((), jnp.int32), own, tx.init(own["params"]), averaged)

  @property
  def result(self) -> Variables:
    """What evaluation and later stages use."""
    return self.variables if self.ema is None else self.ema


def split(variables: Variables, groups: Collection[str]) -> tuple[Variables, Variables]:
  """Variables -> (those of `groups`, the rest)."""
  taken = {c: {g: t for g, t in tree.items() if g in groups} for c, tree in variables.items()}
  rest = {c: {g: t for g, t in tree.items() if g not in groups} for c, tree in variables.items()}
  return taken, rest


def merge(frozen: Variables, trained: Variables) -> Variables:
  """The whole of two disjoint parts; `trained` wins where both have a group."""
  return {c: {**frozen.get(c, {}), **trained.get(c, {})} for c in sorted({*frozen, *trained})}


def digest(variables: Variables) -> str:
  """A hash of all weights, hexadecimal."""
  found = hashlib.blake2b(digest_size=16)
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
    found.update(jax.tree_util.keystr(path).encode())
    found.update(np.ascontiguousarray(leaf).tobytes())
  return found.hexdigest()
