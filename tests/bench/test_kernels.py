import json

import jax
import numpy as np
import pytest

from errseg_jax.bench import kernels as bench
from errseg_jax.bench import roofline
from errseg_jax.bench.command import show
from errseg_jax.cli import main


def test_the_command_prints_a_table_or_json(capsys, monkeypatch):
  monkeypatch.setattr(roofline, "COPIED", 2**10)
  assert main(["bench", "--what=kernels", "--size=33x49", "--json"]) == 0
  cost = json.loads(capsys.readouterr().out)
  assert [(row["operation"], row["form"]) for row in cost["rows"]] == [
    ("loss", "reference"),
    ("loss", "banded"),
    ("labels", "reference"),
    ("labels", "banded"),
  ]
  assert all(row["ms"] > 0 and row["temporary_MB"] > 0 for row in cost["rows"])
  # Each map is 9 x 13; 19 classes twice and one error logit, labels and gradients beside them.
  assert cost["rows"][0]["least_MB"] * 1e6 == 2 * (4 * 39 * 117 + 33 * 49) + 4 * 20 * 117
  show(cost, bench.table, False)
  assert "banded" in capsys.readouterr().out
  assert main(["bench", "--what=kernels", "--config=configs/scenes_demo.py"]) == 2
  assert "leave out --config" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(32, 48), (33, 49)])
def test_all_forms_come_to_the_same(size):
  coarse, label = bench.make_maps(*size)
  want, got = (jax.jit(bench.loss_program(form))(coarse, label) for form in ("reference", "banded"))
  np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
  for name, x in want[1].items():
    np.testing.assert_allclose(got[1][name], x, rtol=0, atol=1e-4 * float(np.abs(x).max()))


@pytest.mark.parametrize(("operation", "smaller"), [("loss", 10), ("labels", 5)])
def test_no_full_size_map_in_memory(operation, smaller):
  """At Cityscapes' size the fused loss needs a tenth of the reference's temporary memory at most."""
  coarse, label = bench.make_maps(1025, 2049)
  program = bench.OPERATIONS[operation]
  reference, banded = (
    bench.temporary_bytes(jax.jit(program(form)).lower(coarse, label).compile())
    for form in ("reference", "banded")
  )
  assert reference > 4 * 19 * 1025 * 2049
  assert banded <= reference / smaller
  assert banded < 4 * 19 * 1025 * 2049
