import logging
import types

from errseg_jax.train.loop import Loop


def loop():
  stage = types.SimpleNamespace(name="semantic", batch_size=8)
  writer = types.SimpleNamespace(write_scalars=lambda *_: None)
  return Loop(stage, None, None, None, None, None, writer, 10, None, None)


def test_a_loader_that_is_too_slow_is_told_once(caplog):
  one = loop()
  with caplog.at_level(logging.WARNING, "errseg"):
    assert "data wait 10%" in one.log([{"loss": 1.0}], 10, 1, 2.0, 0.2)
    assert not caplog.records
    for _ in range(3):
      one.log([{"loss": 1.0}], 20, 1, 2.0, 0.9)
  (record,) = caplog.records
  assert "waits for images 45 % of the time" in record.getMessage()
  assert "loader.threads" in record.getMessage()
