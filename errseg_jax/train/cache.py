"""Training of the branches from a cache of features: which cache fits a run, and what one is made of."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from ml_collections import ConfigDict

from errseg_jax import assemble
from errseg_jax.config import network_given
from errseg_jax.data.feature_records import AGAIN, FeatureCache, open_cache
from errseg_jax.errors import UserError
from errseg_jax.train.state import Variables, digest

SECTIONS = ("splits", "transform")
SEEN = ("features", "mean", "std", "channels")
"""Keys of the segmenter that decide what the branches are given, beside its weights."""


def settings(config: ConfigDict) -> dict[str, Any]:
  """What of a config decides what views of training images are and what is kept of them, in JSON's types."""
  dataset = assemble.dataset(config)
  sections = {name: config[name].to_dict() for name in SECTIONS}
  seen = {key: config.segmenter[key] for key in SEEN}
  adapter = config.segmenter.adapter.to_dict()
  found = {"data": dataset.settings(), **sections, **seen, "adapter": adapter}
  return json.loads(json.dumps(found))


def check_given(config: ConfigDict) -> None:
  """Raises UserError where the network is not known before the run."""
  if not network_given(config):
    raise UserError(
      "a cache of features wants a network that is there: train it, and name its workdir by --config.segmenter.init=W"
    )


def cache_of(config: ConfigDict) -> FeatureCache | None:
  """The cache of `loader.features`; None without.

  Raises:
    UserError: there is none, or it is of other views.
  """
  if not config.loader.features:
    return None
  check_given(config)
  folder = pathlib.Path(config.loader.features).expanduser()
  found, wanted = open_cache(folder), settings(config)
  other = [key for key in wanted if found.settings.get(key) != wanted[key]]
  if other:
    raise UserError(f"{folder}: was made with another {' and '.join(other)} than this config has; {AGAIN}")
  return found


def check_network(cache: FeatureCache, variables: Variables, folder: str) -> None:
  """Raises UserError where a cache is of another network."""
  if cache.settings.get("network") != network_digest(variables):
    raise UserError(f"{folder}: holds features of another network; {AGAIN}")


def network_digest(variables: Variables) -> str:
  """Of the segmenter's weights."""
  return digest({kind: tree.get("segmenter", {}) for kind, tree in variables.items()})
