import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from errseg_jax.models import layers
from errseg_jax.models.resize import resize
from errseg_jax.sharding import make_mesh, place, shard_batch


def image(*shape, seed=0):
  return jax.random.normal(jax.random.key(seed), shape)


def native_depthwise(x, kernel, stride, dilation):
  pad = dilation * (kernel.shape[0] - 1) // 2
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    [(pad, pad)] * 2,
    rhs_dilation=(dilation, dilation),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=x.shape[-1],
  )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2, 5])
@pytest.mark.parametrize("size", [3, 5])
def test_shifted_depthwise_convolution_is_the_native_one(stride, dilation, size):
  x, kernel = image(2, 9, 12, 4), image(size, size, 1, 4, seed=1)

  @jax.jit
  def run(x, kernel):
    """(output, gradients of a function of it) of either form."""
    forms = [lambda x, k, f=f: f(x, k, stride, dilation) for f in (layers.depthwise_conv, native_depthwise)]
    slopes = [jax.grad(lambda x, k, f=f: jnp.sin(f(x, k)).sum(), (0, 1)) for f in forms]
    return [(f(x, kernel), *g(x, kernel)) for f, g in zip(forms, slopes, strict=True)]

  for got, want in zip(*run(x, kernel), strict=True):
    np.testing.assert_allclose(got, want, atol=5e-5)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2, 5, 6, 7, (9, 2), (3, 18)])
def test_a_convolution_leaves_out_no_tap_that_sees_the_map(stride, dilation):
  x, conv = image(2, 6, 7, 4), layers.Conv(5, 3, stride, dilation)
  variables = conv.init(jax.random.key(1), x)
  rates = layers.pair(dilation)
  plain = nn.Conv(5, (3, 3), stride, [(r, r) for r in rates], kernel_dilation=rates, use_bias=False)

  @jax.jit
  def run(variables):
    """(output, gradient of a function of it) of either."""
    other = {"params": variables["params"]["conv"]}
    slopes = (jax.grad(lambda v, m=m: jnp.sin(m.apply(v, x)).sum()) for m in (conv, plain))
    got, want = (g(v)["params"] for g, v in zip(slopes, (variables, other), strict=True))
    return (conv.apply(variables, x), got["conv"]["kernel"]), (plain.apply(other, x), want["kernel"])

  for got, want in zip(*run(variables), strict=True):
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("size", [1, 3])
def test_an_unpadded_convolution_is_the_inside_of_a_padded_one(dilation, size):
  x, margin = image(3, 9, 8, 4), dilation * (size - 1) // 2
  whole, tile = (layers.Conv(5, size, 1, dilation, True, padded=padded) for padded in (True, False))
  variables = whole.init(jax.random.key(1), x)
  want = whole.apply(variables, x)[:, margin : 9 - margin, margin : 8 - margin]
  np.testing.assert_allclose(tile.apply(variables, x), want, atol=1e-5)


@functools.partial(jax.jit, static_argnums=1)
def batch_norm(x, group_size):
  """(output, new statistics, gradient of a function of the output)."""
  norm = layers.BatchNorm(group_size=group_size)
  variables = norm.init(jax.random.key(0), x, True)

  def run(x):
    return norm.apply(variables, x, True, mutable=["batch_stats"])

  slope = jax.grad(lambda x: jnp.sin(3 * run(x)[0]).sum())(x)
  return *run(x), slope


@pytest.mark.parametrize("group_size", [1, 2, 4])
def test_grouped_batch_norm_is_that_of_separate_batches(group_size):
  x = 3 * image(4, 5, 6, 2) + jnp.arange(4.0).reshape(4, 1, 1, 1)
  out, stats, slope = batch_norm(x, group_size)
  parts = [batch_norm(part, 0) for part in jnp.split(x, 4 // group_size)]
  np.testing.assert_allclose(out, jnp.concatenate([p[0] for p in parts]), atol=1e-5)
  np.testing.assert_allclose(slope, jnp.concatenate([p[2] for p in parts]), atol=1e-4)
  for name in ("mean", "var"):
    want = np.mean([p[1]["batch_stats"][name] for p in parts], 0)
    np.testing.assert_allclose(stats["batch_stats"][name], want, rtol=1e-5)


@functools.partial(jax.jit, static_argnums=2)
def trained_norm(variables, x, group_size):
  """((output, new statistics), gradients in x, scale and bias) of a function of the output."""
  norm = layers.BatchNorm(group_size=group_size, dtype="float64")

  def run(params, x):
    out, stats = norm.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])
    weights = jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(
      out.shape
    )  # every output counts otherwise
    return (weights * jnp.sin(3 * out)).sum(), (out, stats["batch_stats"])

  return jax.grad(run, (0, 1), has_aux=True)(variables["params"], x)


def one_device(variables, x, slope, momentum=0.9, epsilon=1e-5):
  """Algorithm 1 of P3 on one group: output, gradients in x, scale and bias, new running mean and variance."""
  gamma, beta = variables["params"]["scale"], variables["params"]["bias"]
  count, axes = x[..., 0].size, (0, 1, 2)
  mean = x.mean(axes)
  var = np.square(x - mean).mean(axes)
  normal = (x - mean) / np.sqrt(var + epsilon)
  out = gamma * normal + beta
  g = slope(out)
  d_gamma, d_beta = (g * normal).sum(axes), g.sum(axes)
  d_x = gamma / np.sqrt(var + epsilon) * (g - d_beta / count - normal * d_gamma / count)
  old = variables["batch_stats"]
  stats = [momentum * old[k] + (1 - momentum) * v for k, v in (("mean", mean), ("var", var))]
  return out, d_x, d_gamma, d_beta, *stats


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("group_size", [0, 1, 2, 4, 8])
def test_groups_are_as_one_device_would_compute_them(group_size, devices):
  """Forward and backward pass, whatever the devices hold: groups larger and smaller than their share of the batch."""
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    x = 3 * rng.normal(size=(8, 3, 4, 2)) + np.arange(8.0).reshape(8, 1, 1, 1)
    draw = rng.uniform(0.5, 2, (4, 2))
    variables = {
      "params": {"scale": draw[0], "bias": draw[1]},
      "batch_stats": {"mean": draw[2], "var": draw[3]},
    }
    mesh = make_mesh(devices)
    sharded = shard_batch({"x": x}, mesh)["x"]
    assert len(sharded.sharding.device_set) == devices
    (slopes, d_x), (out, stats) = trained_norm(place(variables, mesh), sharded, group_size)
    weights = np.cos(np.arange(x.size)).reshape(x.shape)
    groups = 8 // (group_size or 8)
    parts = [
      one_device(variables, part, lambda out, w=w: 3 * w * np.cos(3 * out))
      for part, w in zip(np.split(x, groups), np.split(weights, groups), strict=True)
    ]
    want = list(zip(*parts, strict=True))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
    close(out, np.concatenate(want[0]))
    close(d_x, np.concatenate(want[1]))
    close(slopes["scale"], np.sum(want[2], 0))
    close(slopes["bias"], np.sum(want[3], 0))
    close(stats["mean"], np.mean(want[4], 0))
    close(stats["var"], np.mean(want[5], 0))


def test_batch_norm_normalises_in_training_and_uses_running_statistics_at_rest():
  x = 5 * image(4, 8, 8, 3) + 2
  norm = layers.BatchNorm(momentum=0.0)
  out, stats = norm.init_with_output(jax.random.key(0), x, True)
  np.testing.assert_allclose(out.mean((0, 1, 2)), 0, atol=1e-5)
  np.testing.assert_allclose(out.std((0, 1, 2)), 1, atol=1e-4)
  assert not np.asarray(stats["batch_stats"]["mean"]).any()
  _, changed = norm.apply(stats, x, True, mutable=["batch_stats"])
  rest = norm.apply({**stats, **changed}, x, False)
  np.testing.assert_allclose(rest, out, atol=1e-4)


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (48, 16), (8, 8), (3, 1), (20, 4)])
def test_group_norm_has_as_many_groups_as_divide(channels, groups):
  x = 4 * image(2, 5, 6, channels) + jnp.arange(float(channels)).reshape(1, 1, 1, -1)
  got, _ = layers.GroupNorm().init_with_output(jax.random.key(0), x)
  parts = np.asarray(x).reshape(2, 5, 6, groups, -1)
  mean, var = parts.mean((1, 2, 4), keepdims=True), parts.var((1, 2, 4), keepdims=True)
  want = ((parts - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)
  np.testing.assert_allclose(got, want, atol=1e-3)


@pytest.mark.parametrize("gate", ["sigmoid", "relu"])
def test_the_gau_gates_low_by_pooled_high_and_adds_high(gate):
  low, high = image(2, 9, 7, 5), image(2, 3, 2, 6, seed=1)
  out, variables = jax.jit(layers.GAU(4, gate).init_with_output)(jax.random.key(0), low, high)
  params = variables["params"]

  def dense(name, x):
    conv = params[name]["conv"]
    return jnp.einsum("bhwi,io->bhwo", x, conv["kernel"][0, 0]) + conv["bias"].reshape(1, 1, 1, -1)

  factor = {"sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu}[gate](
    dense("gate", high.mean((1, 2), keepdims=True))
  )
  smooth = layers.ConvGNReLU(4).apply({"params": params["low"]}, low)
  want = resize(dense("high", high), (9, 7)) + smooth * factor
  np.testing.assert_allclose(out, want, atol=1e-4)


@pytest.mark.parametrize(
  "build",
  [
    functools.partial(layers.ConvBNReLU, 4, separable=True),
    functools.partial(layers.ConvBNReLU, 4),
    functools.partial(layers.BatchNorm),
  ],
)
@pytest.mark.parametrize(
  ("dtype", "stored"),
  [("bfloat16", "float32"), ("float32", "float32")],
)
def test_parameters_and_statistics_stay_float32(build, dtype, stored):
  x = image(2, 6, 6, 4).astype(dtype)
  unit = build(dtype=dtype)
  out, variables = jax.eval_shape(lambda x: unit.init_with_output(jax.random.key(0), x, True), x)
  assert out.dtype == dtype
  assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {stored}
