import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from errseg_jax import assemble
from errseg_jax.models.error_aware import infer
from errseg_jax.models.folding import fold, foldable, folded
from errseg_jax.models.layers import BatchNorm, Conv, ConvBNReLU, DepthwiseConv

BACKBONES = {
  "mobilenetv2": {"name": "mobilenetv2", "multiplier": 0.35},
  "resnet": {"name": "resnet", "width": 4},
  "resnet v1d": {"name": "resnet", "width": 4, "depth": 18, "stem": "semseg", "average_shortcut": True},
  "squeezenet": {"name": "squeezenet"},
  "vgg": {"name": "vgg", "batch_norm": True},
  "wide_resnet": {"name": "wide_resnet", "multiplier": 0.05},
  "xception": {"name": "xception", "multiplier": 0.05, "depth": 41},
}
HEADS = {
  "deeplabv3plus": {"features": 8, "low_features": 4},
  "pan": {"features": 8},
  "pspnet": {"features": 8},
}


def ordinary(shapes):
  """Variables of which none vanishes, without compiling the initialisation."""
  rng = np.random.default_rng(0)

  def fill(leaf):
    if len(leaf.shape) < 2:
      return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
    return rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape).astype(leaf.dtype)

  return jax.tree.map(fill, shapes)


def norms(model, image):
  """Paths of all batch normalisations that run."""
  found = set()

  def watch(call, args, kwargs, context):
    if isinstance(context.module, BatchNorm):
      found.add(context.module.path)
    return call(*args, **kwargs)

  with nn.intercept_methods(watch):
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
  return found, shapes


def check(model):
  """The folded network gives the same logits; returns (normalisations that are left, folded ones)."""
  image = np.random.default_rng(1).integers(0, 256, (1, 45, 61, 3), np.uint8)
  everything, shapes = norms(model, image)
  variables, pairs = ordinary(shapes), foldable(model)

  def run(variables, norms):
    with folded(norms):
      return infer(model, variables, image)

  a = jax.jit(lambda v: run(v, ()))(variables)
  b = jax.jit(lambda v: run(v, pairs))(fold(variables, pairs))
  for name in ("semantic", "detail", "error"):
    expected = np.asarray(getattr(a, name))
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(getattr(b, name), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
  return everything - {*pairs}, set(pairs)


@pytest.mark.parametrize("case", BACKBONES)
def test_a_folded_backbone_is_the_same(case, tiny_config):
  left, found = check(assemble.model(tiny_config(segmenter__backbone=BACKBONES[case]), 3))
  if case == "wide_resnet":  # it normalises sums: those stay
    assert left
  else:
    assert not left
  assert case == "squeezenet" or any("backbone" in path for path in found)


@pytest.mark.parametrize("name", HEADS)
def test_a_folded_head_is_the_same(name, tiny_config):
  left, _ = check(assemble.model(tiny_config(segmenter__head={"name": name, **HEADS[name]}), 3))
  assert not left


class Shared(nn.Module):
  """Two layers read a convolution's output: its normalisation must not be folded into it."""

  @nn.compact
  def __call__(self, image):
    x = Conv(4, name="shared")(image.astype(jnp.float32))
    y = BatchNorm(name="bn")(x, False) + Conv(4, name="other")(x)
    y = BatchNorm(name="own_bn")(DepthwiseConv(name="own")(y), False)
    return ConvBNReLU(4, name="unit")(y, False)


def test_a_convolution_that_others_read_too_is_left_alone():
  assert foldable(Shared()) == {
    ("own_bn",): (("own",), 1e-5),
    ("unit", "bn"): (("unit", "conv", "conv"), 1e-5),
  }
