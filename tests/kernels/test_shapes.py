"""Any shapes, drawn by hypothesis: both forms are the reference's."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from errseg_jax.kernels import body, cells
from errseg_jax.kernels.blocks import Blocks, taps
from errseg_jax.losses import DetailLoss, ErrorLoss

SHAPES = {
  "num_classes": st.sampled_from([2, 3, 5]),
  "low": st.tuples(st.integers(2, 6), st.integers(2, 6)),
  "scale": st.integers(2, 5),
  "align_corners": st.booleans(),
  "batch": st.integers(1, 2),
  "seed": st.integers(0, 2**16),
}


@hypothesis.settings(max_examples=200, deadline=None, database=None)
@hypothesis.given(
  low=st.integers(1, 40),
  full=st.integers(1, 90),
  size=st.integers(1, 33),
  align_corners=st.booleans(),
)
def test_blocks_hold_the_taps_of_any_lengths(low, full, size, align_corners):
  found = Blocks.of(low, full, align_corners, size)
  x = np.random.default_rng(0).normal(size=low)
  got = np.einsum("bn,bpn->bp", x[found.index], found.weight).ravel()
  first, fraction = taps(low, full, align_corners)
  want = x[first] * (1 - fraction) + x[np.minimum(first + 1, low - 1)] * fraction
  np.testing.assert_allclose(got[:full], want, rtol=1e-5, atol=1e-5)
  assert not got[full:].any()


@hypothesis.settings(max_examples=200, deadline=None, database=None)
@hypothesis.given(low=st.integers(2, 40), scale=st.integers(1, 9), align_corners=st.booleans())
def test_cells_of_a_whole_ratio_hold_every_pixel(kit, low, scale, align_corners):
  full = kit.pixels(low, scale, align_corners)
  axis = cells.axis(low, full, align_corners)
  found = cells.neighbours(low, axis, align_corners)
  assert found is not None
  assert (found.count, found.step) == (2, 1)
  assert 0 <= axis.before < scale + 1
  assert axis.before + full <= axis.cells * scale


@pytest.mark.parametrize(("form", "examples"), [("banded", 3), ("pallas", 2)])
def test_losses_of_any_shape(kit, monkeypatch, form, examples):
  monkeypatch.setattr(body, "UNROLLED", 2)

  @hypothesis.settings(max_examples=examples, deadline=None, database=None, derandomize=True)
  @hypothesis.given(**SHAPES)
  def holds(**shape):
    coarse, label = kit.make_maps(**shape)
    loss = DetailLoss("soft", jaccard=1.0) if shape["seed"] % 2 else ErrorLoss(rho=0.6)
    want = kit.value_and_slopes(loss, coarse, label, fused=False)
    kit.assert_close(kit.value_and_slopes(loss, coarse.replace(kernels=form), label), want)

  holds()
