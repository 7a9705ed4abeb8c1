"""The real PyTorch networks with random weights, to compare ours with: `make parity`.

torch is no dependency of the package; without it everything here is skipped.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax.convert.engine import convert

try:
  import torch
except ImportError:
  torch = None

if torch:
  torch.set_num_threads(1)
  # torchvision's compiled operators need its own torch; its networks need them only declared.
  OPERATORS = torch.library.Library("torchvision", "DEF")
  for operator in ("nms", "qnms"):
    OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

SIZES = ((64, 96), (65, 97))
TOLERANCE = 1e-4  # of the largest value
COUNTERS = (r".*\bnum_batches_tracked",)


class NeedsTorch(pytest.Module):
  """A file of tests where there is no torch."""

  def collect(self):
    pytest.skip("needs torch: `make parity` has it, in an environment of its own", allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
  return None if torch else NeedsTorch.from_parent(parent, path=module_path)


@pytest.fixture(scope="session")
def parity():
  """The functions of this file."""
  return sys.modules[__name__]


def randomize(net, seed=0):
  """The network in evaluation mode with random weights and random statistics, none of them where it would vanish."""
  generator = torch.Generator().manual_seed(seed)

  def uniform(tensor, low, high):
    tensor.uniform_(low, high, generator=generator)

  with torch.no_grad():
    for module in net.modules():
      if isinstance(module, torch.nn.BatchNorm2d):
        uniform(module.weight, 0.5, 1.5)
        uniform(module.running_var, 0.5, 1.5)
        uniform(module.bias, -0.3, 0.3)
        uniform(module.running_mean, -0.3, 0.3)
      elif isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
        fan_in = module.weight[0].numel()
        module.weight.normal_(0, (1.5 / fan_in) ** 0.5, generator=generator)
        if module.bias is not None:
          uniform(module.bias, -0.3, 0.3)
  return net.eval()


def images(size, seed=0):
  """Random images [2, H, W, 3], unequal in every direction."""
  return np.random.default_rng(seed).normal(size=(2, *size, 3)).astype(np.float32)


def run_torch(function, x):
  """Maps [B, C, H, W] of a function of an NCHW tensor, as arrays [B, H, W, C]."""
  with torch.no_grad():
    out = function(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
  return [y.numpy().transpose(0, 2, 3, 1) for y in out]


def convert_to(module, rules, net, ignore=COUNTERS):
  """Our variables of a module [B, H, W, 3] -> anything, with the arrays of a PyTorch network."""
  like = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, False), jnp.zeros((1, 64, 64, 3)))
  arrays = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
  return convert(rules, arrays, like, type(net).__name__, ignore)


def assert_close(got, want, where):
  """Every map of ours is theirs to TOLERANCE of its largest value."""
  assert len(got) == len(want)
  for i, (ours, theirs) in enumerate(zip(got, want, strict=True)):
    assert ours.shape == theirs.shape, f"{where}, map {i}"
    difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
    print(f"{where}, map {i}: relative difference {difference:.1e}")
    assert difference <= TOLERANCE, f"{where}, map {i}: relative difference {difference:.1e}"


def check_backbone(module, rules, net, function, ignore=COUNTERS, sizes=SIZES):
  """Our backbone with the network's arrays gives the network's maps.

  Args:
    module: ours.
    rules: of the conversion.
    net: theirs, all of whose arrays ours has a place for.
    function: NCHW tensor -> their maps, in the order of ours (low, then final).
    ignore: regular expressions of their names that we leave out.
    sizes: (H, W) of the images.
  """
  variables = convert_to(module, rules, net, ignore)
  apply = jax.jit(lambda v, x: module.apply(v, x, False))
  for size in sizes:
    x = images(size)
    out = apply(variables, x)
    assert_close([*out.low, out.final], run_torch(function, x), f"{type(net).__name__} at {size}")
