"""The comparison with PyTorch compares the same network."""

import json

import pytest

from errseg_jax.bench import pytorch as bench
from errseg_jax.bench.command import show
from errseg_jax.cli import main
from errseg_jax.errors import UserError


def test_both_are_timed_and_give_the_same_logits(monkeypatch, capsys):
  monkeypatch.setattr(bench, "ENCODERS", ("mobilenet_v2",))
  monkeypatch.setattr(bench, "ROUNDS", {"inference": 1, "training": 1})
  monkeypatch.setattr(bench, "BATCH", {"inference": 1, "training": 2})
  monkeypatch.setattr(bench, "compiled", lambda *_: {})  # takes minutes
  assert main(["bench", "--what=pytorch", "--size=32x48", "--json"]) == 0
  found = json.loads(capsys.readouterr().out)
  inference, training = found["rows"]
  assert (inference["what"], training["what"]) == ("inference", "training")
  assert inference["difference"] < 1e-4
  for row in (inference, training):
    assert row["ratio"] == pytest.approx(row["ms"] / row["eager_ms"])
    assert row["compiled_ms"] is None
  show(found, bench.table, False)
  assert "eager" in capsys.readouterr().out


def test_a_size_that_theirs_does_not_take_is_said():
  with pytest.raises(UserError, match="multiples of 16"):
    bench.compare(513, 513)
