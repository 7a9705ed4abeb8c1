import builtins

import pytest

from errseg_jax.bench import pytorch as bench
from errseg_jax.errors import UserError


def test_what_is_missing_is_named(monkeypatch):
  real = builtins.__import__

  def without_torch(name, *args, **kwargs):
    if name in ("torch", "segmentation_models_pytorch"):
      raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return real(name, *args, **kwargs)

  monkeypatch.setattr(builtins, "__import__", without_torch)
  with pytest.raises(UserError, match=r"is missing: pip install torch"):
    bench.compare(512, 512)
