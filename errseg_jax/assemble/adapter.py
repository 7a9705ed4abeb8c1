"""The given network of a config that is not ours."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from errseg_jax.adapters import ADAPTERS
from errseg_jax.adapters.saved import SavedAdapter
from errseg_jax.assemble.sections import as_tuples, construct, known
from errseg_jax.data.scored import ScoreFiles


def adapter(config: ConfigDict) -> Any:
  """What `config.segmenter.adapter` says, of `adapters.ADAPTERS`; None where it says nothing.

  Raises:
    UserError: an unknown name or key.
  """
  fields = config.segmenter.adapter.to_dict()
  if not fields:
    return None
  cls = ADAPTERS[known(fields.pop("name", ""), ADAPTERS, "config.segmenter.adapter.name")]
  fields = {k: as_tuples([*v.items()] if isinstance(v, dict) else v) for k, v in fields.items()}
  return construct(cls, fields, "segmenter.adapter")


def score_files(config: ConfigDict) -> ScoreFiles | None:
  """Where the network is saved scores, their folder.

  Raises:
    UserError: there is no such folder.
  """
  if config.segmenter.adapter.get("name", "") != "saved":
    return None
  found = adapter(config)
  assert isinstance(found, SavedAdapter)
  return found.files
