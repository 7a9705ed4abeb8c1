"""What a config names of the user's own: code and files."""

from __future__ import annotations

import importlib
import pathlib
from typing import Any

from errseg_jax.errors import UserError


def content_of(path: str) -> bytes:
  """The bytes of the file that a config names.

  Raises:
    UserError: it cannot be read.
  """
  try:
    return pathlib.Path(path).read_bytes()
  except OSError as error:
    raise UserError(f"config.segmenter.adapter.path={path!r}: {error.strerror}") from None


def made(factory: str, options: dict[str, Any]) -> Any:
  """What MODULE:FUNCTION(**options) returns.

  Args:
    factory: "package.module:function"; in a notebook "__main__:function".
    options: its arguments.

  Raises:
    UserError: there is no such module or function, or it raises.
  """
  where = f"config.segmenter.adapter.factory={factory!r}"
  module, _, name = factory.partition(":")
  if not module or not name:
    raise UserError(f"{where}: write it as package.module:function")
  try:
    found = getattr(importlib.import_module(module), name)
  except ImportError as error:
    raise UserError(f"{where}: {error}; is its folder in PYTHONPATH?") from None
  except AttributeError:
    raise UserError(f"{where}: {module} has no {name}") from None
  try:
    return found(**options)
  except UserError:
    raise
  except Exception as error:  # the user's own code: whatever it raises is theirs to mend
    raise UserError(f"{where}: {type(error).__name__}: {error}") from None
