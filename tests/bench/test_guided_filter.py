import json

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from errseg_jax.bench import guided_filter as bench
from errseg_jax.bench.command import show
from errseg_jax.cli import main


def test_the_command_prints_a_table_or_json(capsys, monkeypatch):
  monkeypatch.setattr(bench, "ROUNDS", 1)
  monkeypatch.setattr(bench, "RADII", (1,))
  assert main(["bench", "--what=guided_filter", "--size=16x24", "--json"]) == 0
  cost = json.loads(capsys.readouterr().out)
  (row,) = cost["rows"]
  assert (cost["image_size"], row["radius"]) == ([16, 24], 1)
  assert row["ratio"] == pytest.approx(row["direct_ms"] / row["ms"])
  show(cost, bench.table, False)
  assert "radius" in capsys.readouterr().out
  assert main(["bench", "--what=guided_filter", "--config=configs/scenes_demo.py"]) == 2
  assert "leave out --config" in capsys.readouterr().err


def test_direct_sums_are_sums_over_windows():
  rng = np.random.default_rng(0)
  guide, x = (rng.normal(size=(1, 7, 9, n)).astype(np.float32) for n in (3, 2))
  want = np.concatenate([x, *(x * guide[..., i : i + 1] for i in range(3))], -1)
  for _ in range(2):
    want = np.pad(want, ((0, 0), (2, 2), (2, 2), (0, 0)))
    want = sliding_window_view(want, (5, 5), (1, 2)).sum((-1, -2))
  np.testing.assert_allclose(bench.direct_sums(guide, x, 2), want, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_time_does_not_depend_on_the_radius():
  """Loose: other processes share the machine."""
  cost = bench.filter_cost(256, 256)
  small, _, large = cost["rows"]
  assert large["ms"] < 1.5 * small["ms"]
  assert large["ratio"] > 3
