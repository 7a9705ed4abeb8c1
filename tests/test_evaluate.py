import types

import numpy as np

from errseg_jax.evaluate import control_scores, segmentation_results, sweep
from errseg_jax.inference.evaluator import Totals
from errseg_jax.structs import DatasetInfo

CLASSES, PALETTE = ("sky", "road", "cow"), ((0, 0, 0),) * 3
PLAIN = DatasetInfo("tiny", CLASSES, PALETTE)
DECLARED = DatasetInfo("tiny", CLASSES, PALETTE, absent=("cow",))
CONFUSION = np.array([[6, 2, 1], [1, 9, 0], [0, 0, 0]])  # IoU 60, 75; cow is predicted once and never true
BOUNDARY = np.array([[4, 3, 0], [8, 4, 1]])


class Model:
  def clone(self, **changes):
    return self


def scores(info):
  """mIoU and mBIoU of label maps, and mIoU of a threshold and of the control."""
  counts = {"confusion/semantic": CONFUSION, "boundary/semantic": BOUNDARY}
  semantic = segmentation_results(Totals(counts), info)["semantic"]
  by_threshold = {"by_threshold": np.stack([np.stack([CONFUSION, 0 * CONFUSION])] * 2)}
  (row,) = sweep(by_threshold, np.ones((2, 4096), int), np.ones(4096, int), (0.5,), info)
  return semantic["mIoU"], semantic["mBIoU"], row["mIoU"]


def test_classes_that_the_data_set_declares_absent_leave_all_means():
  assert scores(PLAIN) == (45, 125 / 3, 45)
  assert scores(DECLARED) == (67.5, 62.5, 67.5)


def test_the_control_is_scored_as_the_network_is(monkeypatch):
  monkeypatch.setattr("errseg_jax.evaluate.make_counter", lambda *args, **kwargs: None)
  evaluator = types.SimpleNamespace(run=lambda *args: Totals({"confusion/semantic": CONFUSION}))
  found = [control_scores(evaluator, Model(), {}, [], info)["mIoU"] for info in (PLAIN, DECLARED)]
  assert found == [45, 67.5]
