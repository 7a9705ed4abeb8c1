"""The guided filter against OpenCV's, whose images go on mirrored at the border."""

import cv2
import jax
import numpy as np
import pytest

from errseg_jax.models.guided_filter import guided_filter

if not hasattr(cv2, "ximgproc"):
  pytest.skip("needs opencv-contrib: `make parity` has it", allow_module_level=True)


@pytest.fixture(scope="module")
def pair():
  rng = np.random.default_rng(0)
  colours = rng.integers(0, 256, (6, 7, 3)).repeat(25, 0).repeat(24, 1)
  guide = (colours + rng.normal(0, 8, colours.shape)).clip(0, 255).astype(np.float32)
  x = np.stack([guide[..., 0] > 100, rng.random(guide.shape[:2]), rng.normal(size=guide.shape[:2])], -1)
  return guide, x.astype(np.float32)


# Nine pixels whose colours hardly vary: there OpenCV itself is 4e-4 from the result in float64, ours 3e-5.
HARD = pytest.param(1, 10.0, 5e-4, id="1-10")


@pytest.mark.parametrize(
  ("radius", "eps", "tolerance"),
  [HARD, (4, 10.0, 1e-4), (30, 10.0, 1e-4), (1, 1000.0, 1e-4), (4, 1000.0, 1e-4), (30, 1000.0, 1e-4)],
)
def test_it_is_that_of_opencv(pair, radius, eps, tolerance):
  """To 1e-4 of the range: everywhere mirrored, and where no window of a window meets the border with "count"."""
  guide, x = pair
  want = cv2.ximgproc.guidedFilter(guide, x, radius, eps)
  inner = slice(2 * radius, -2 * radius)
  for border, where in (("reflect", slice(None)), ("count", inner)):
    run = jax.jit(lambda g, x, border=border: guided_filter(g, x, radius, eps, border))
    got = np.asarray(run(guide[None], x[None]))[0]
    difference = np.abs(got - want)[where, where].max((0, 1)) / np.ptp(x, (0, 1))
    print(f"radius {radius}, eps {eps:g}, {border}: {difference.max():.1e} of the range")
    assert difference.max() < tolerance
