"""`check_head` is the test of a new head: call it with an instance and what its logits and `high` should be."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from errseg_jax import assemble
from errseg_jax.errors import UserError
from errseg_jax.models.backbones import Endpoints, SqueezeNet
from errseg_jax.models.heads import (
  DPC,
  FCN,
  HEADS,
  PAN,
  DeepLabV3,
  DeepLabV3Plus,
  DUpsampling,
  GAUDecoder,
  LargeFOV,
  Local,
  PSPNet,
)
from errseg_jax.models.heads.dpc_cells import PUBLISHED, Branch, read_cell
from errseg_jax.models.heads.dupsampling import depth_to_space
from errseg_jax.models.pyramid import bin_means
from errseg_jax.models.segmenter import Segmenter

# What a config with a tiny backbone sets, and the stride of the logits at output stride 16.
SMALL = {
  "deeplabv3": ({"features": 8}, 16),
  "deeplabv3plus": ({"features": 8, "low_features": 4}, 4),
  "dpc": ({"features": 8, "low_features": 4}, 4),
  "dupsampling": ({"features": 8, "low_features": 4}, 1),
  "fcn": ({}, 16),
  "gau": ({"features": 8, "decoder_features": (8, 6)}, 4),
  "largefov": ({}, 16),
  "local": ({"features": 8}, 16),
  "pan": ({"features": 8}, 4),
  "pspnet": ({"features": 8}, 16),
}


def at(stride, size=(45, 61)):
  return tuple(-(-n // stride) for n in size)


def make_endpoints(output_stride=16, make=jax.ShapeDtypeStruct, dtype=jnp.float32):
  """Maps of two 45x61 images with 6, 8, 10 channels at strides 2, 4, 8, then 14 and 12."""
  strides = (2, 4, 8)
  low = tuple(make((2, *at(s), c), dtype) for s, c in zip(strides, (6, 8, 10), strict=True))
  final = make((2, *at(output_stride), 12), dtype)
  penultimate = make((2, *at(min(16, output_stride)), 14), dtype)
  return Endpoints(low, final, strides, output_stride, penultimate)


def random_endpoints(output_stride=16, dtype=jnp.float32):
  keys = iter(jax.random.split(jax.random.key(5), 9))
  return make_endpoints(
    output_stride, lambda shape, dtype: jax.random.normal(next(keys), shape, dtype), dtype
  )


def random_variables(head, output_stride=16):
  """Random parameters and statistics of a head, biases positive, so that no chain of ReLUs is dead."""
  rng = np.random.default_rng(1)
  endpoints = make_endpoints(output_stride)
  shapes = jax.eval_shape(lambda e: head.init(jax.random.key(0), e, False), endpoints)

  def draw(path, leaf):
    if path[-1].key == "kernel":
      values = rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape)
    else:
      low, high = {"mean": (-0.1, 0.1), "bias": (0.3, 0.8)}.get(path[-1].key, (0.5, 1.5))
      values = rng.uniform(low, high, leaf.shape)
    return jnp.asarray(values, leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def kernels(head, output_stride=16):
  """(Features, path -> kernel shape) of a head, without computing anything."""
  endpoints = make_endpoints(output_stride)
  out, variables = jax.eval_shape(lambda e: head.init_with_output(jax.random.key(0), e, False), endpoints)
  flat = traverse_util.flatten_dict(variables["params"], sep="/")
  return out, {name: leaf.shape for name, leaf in flat.items()}


def check_head(head, logit_stride, high_features, high_stride=16, output_stride=16):
  """The contract of a head: sizes, types, low-level maps; auxiliary logits in training only; live parameters."""
  out, _ = kernels(head, output_stride)
  assert out.logits.shape == (2, *at(logit_stride), head.num_classes)
  assert out.logits.dtype == jnp.float32
  assert out.high.shape == (2, *at(high_stride), high_features)
  assert out.strides == (2, 4, 8)
  assert [x.shape[-1] for x in out.low] == [6, 8, 10]
  assert out.align_corners == head.align_corners

  endpoints, variables = random_endpoints(output_stride), random_variables(head, output_stride)
  train = head.auxiliary_features > 0

  def loss(params):
    rngs = {"dropout": jax.random.key(2)}
    full = {**variables, "params": params}
    out, _ = head.apply(full, endpoints, train, mutable=["batch_stats"], rngs=rngs)
    assert (out.auxiliary is not None) == train
    auxiliary = jnp.sin(3 * out.auxiliary).sum() if train else 0.0
    return jnp.sin(3 * out.logits).sum() + auxiliary

  slopes = jax.jit(jax.grad(loss))(variables["params"])
  for name, leaf in traverse_util.flatten_dict(slopes, sep="/").items():
    assert np.asarray(leaf).any(), f"no gradient reaches {name}"


@pytest.mark.parametrize("separable", [False, True])
def test_deeplab_gives_logits_at_stride_4_and_aspp_as_high(separable):
  check_head(DeepLabV3Plus(5, 16, 4, separable=separable), 4, 16)
  _, shapes = kernels(DeepLabV3Plus(5, 16, 4, separable=separable))
  depthwise = [name for name in shapes if "depthwise/" in name]
  assert len(depthwise) == (5 if separable else 0)  # three rates, two decoder convolutions
  assert shapes["low_projection/conv/conv/kernel"] == (1, 1, 8, 4)
  dense = shapes.get("aspp/aspp1/conv/conv/kernel")
  assert dense == (None if separable else (3, 3, 12, 16))


@pytest.mark.parametrize(
  "head",
  [
    DeepLabV3Plus(5, 8, 4, separable_bn=False, pooling_bn=True, context_conv=True, decoder_convs=1),
    DeepLabV3Plus(5, 8, 4, pooling_bn=True, pooling_first=True, projection_kernel=3, decoder_dropout=0.1),
    DeepLabV3Plus(5, 8, 4, align_corners=True, auxiliary_features=6, bn_epsilon=1e-3),
  ],
  ids=["smp", "mmseg", "auxiliary"],
)
def test_deeplab_in_its_published_forms(head):
  check_head(head, 4, 8)


@pytest.mark.parametrize(("output_stride", "rates"), [(8, (12, 24, 36)), (16, (6, 12, 18)), (32, (3, 6, 9))])
@pytest.mark.parametrize("head", [DeepLabV3Plus(5, 16, 4), DeepLabV3(5, 16), DUpsampling(5, 16, 4)])
def test_rates_follow_the_output_stride(head, output_stride, rates):
  seen = []

  def record(call, args, kwargs, context):
    if context.module.name == "aspp":
      seen.append(context.module.rates)
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    kernels(head, output_stride)
  assert seen[0] == rates


@pytest.mark.parametrize(
  "head",
  [
    DeepLabV3(5, 8, auxiliary_features=6),
    DeepLabV3(5, 8, separable=True, separable_bn=False, pooling_bn=False),
    DeepLabV3(5, 8, rates=(), pooling_first=True, final_conv=False),
  ],
  ids=["torchvision", "smp", "tf mobilenet"],
)
def test_deeplabv3(head):
  check_head(head, 16, 8)
  check_head(head, 8, 8, 8, output_stride=8)


@pytest.mark.parametrize(
  ("head", "high"),
  [(FCN(5, auxiliary_features=6), 3), (FCN(5, 8, convs=2, join_input=True), 8)],
  ids=["torchvision", "mmseg"],
)
def test_fcn(head, high):
  check_head(head, 16, high)


@pytest.mark.parametrize(
  ("head", "high"),
  [(LargeFOV(5), 12), (LargeFOV(5, 8, kernel_size=3, dilation=2, dropout=0.0, auxiliary_features=4), 8)],
)
def test_largefov(head, high):
  check_head(head, 16, high)


def test_local_shares_the_map_with_the_guidance():
  check_head(Local(5, 8, dilation=2, auxiliary_features=4), 16, 12)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_pspnet(output_stride):
  head = PSPNet(5, 8, auxiliary_features=6, align_corners=True)
  check_head(head, output_stride, 8, output_stride, output_stride)
  smp = PSPNet(5, 8, kernel_size=1, classifier_kernel=3, global_bn=False, map_last=True, stride=8)
  check_head(smp, 8, 8, 8, output_stride)


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_bin_means_are_means_over_spans_that_cover_the_map(bins):
  x = jax.random.normal(jax.random.key(0), (2, 8, 13, 3))
  got = bin_means(x, bins)
  for i in range(bins):
    for j in range(bins):
      rows = slice(i * 8 // bins, -(-(i + 1) * 8 // bins))
      columns = slice(j * 13 // bins, -(-(j + 1) * 13 // bins))
      np.testing.assert_allclose(got[:, i, j], x[:, rows, columns].mean((1, 2)), atol=1e-5)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_pan(output_stride):
  check_head(PAN(5, 8, align_corners=True), 4, 8, output_stride, output_stride)


def test_dpc_with_the_published_cell():
  check_head(DPC(5, 8, 4, align_corners=True), 4, 8)
  assert [(b.input, b.rate) for b in PUBLISHED] == [
    (-1, (1, 6)),
    (0, (18, 15)),
    (1, (6, 3)),
    (0, (1, 1)),
    (0, (6, 21)),
  ]


def test_a_cell_s_rates_are_vertical_then_horizontal_and_follow_the_output_stride():
  seen = {}

  def record(call, args, kwargs, context):
    if (context.module.name or "").startswith("branch"):
      seen[context.module.name] = context.module.dilation
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    kernels(DPC(5, 8, 4), 8)
  assert list(seen.values()) == [(2, 12), (36, 30), (12, 6), (2, 2), (12, 42)]


CELL = [
  {"op": "conv", "kernel": 1, "input": -1},
  {"op": "conv", "kernel": [3, 3], "rate": [3, 1], "input": 0},
  {"op": "pyramid_pooling", "grid_size": [2, 1], "input": 1},
]


def write_cell(tmp_path, cell):
  path = tmp_path / "cell.json"
  path.write_text(cell if isinstance(cell, str) else json.dumps(cell))
  return str(path)


def test_dpc_with_a_cell_of_one_s_own(tmp_path):
  path = write_cell(tmp_path, CELL)
  assert read_cell(path) == (
    Branch(-1, kernel=1),
    Branch(0, rate=(3, 1)),
    Branch(1, "pyramid_pooling", grid=(2, 1)),
  )
  check_head(DPC(5, 8, 4, cell=path), 4, 8)


@pytest.mark.parametrize(
  ("cell", "words"),
  [
    ("[", ("cell.json", "JSON")),
    ({}, ("list",)),
    ([], ("list",)),
    ([3], ("branch 0", '"conv" or "pyramid_pooling"')),
    ([{"op": "pool", "input": -1}], ("branch 0", "pyramid_pooling")),
    (
      [{"op": "conv", "kernel": 3, "rates": [1, 1], "input": -1}],
      ("'rates'", "known: op, input, kernel, rate"),
    ),
    ([CELL[0], {"op": "conv", "kernel": 3, "input": 1}], ("branch 1.input=1", "earlier")),
    ([{"op": "conv", "kernel": 3}], ("branch 0.input=None", "-1")),
    ([{"op": "conv", "kernel": 2, "input": -1}], ("kernel=2", "odd")),
    ([{"op": "conv", "kernel": [1, 3], "input": -1}], ("kernel=[1, 3]", "square")),
    ([{"op": "conv", "kernel": 3, "rate": [0, 1], "input": -1}], ("rate=[0, 1]", "positive")),
    ([{"op": "pyramid_pooling", "input": -1}], ("grid_size=None", "positive")),
  ],
)
def test_a_wrong_cell_is_refused_in_one_line(tmp_path, cell, words):
  with pytest.raises(UserError) as caught:
    read_cell(write_cell(tmp_path, cell))
  assert "\n" not in str(caught.value)
  for word in words:
    assert word in str(caught.value)


def test_a_missing_cell_is_refused():
  with pytest.raises(UserError, match=r"nowhere\.json"):
    read_cell("nowhere.json")


@pytest.mark.parametrize(("stride", "output_stride"), [(2, 16), (4, 16), (2, 8)])
def test_dupsampling(stride, output_stride):
  check_head(DUpsampling(5, 8, 4, logit_stride=stride), stride, 8, output_stride, output_stride)


def test_dupsampling_to_full_resolution_reaches_at_most_a_pixel_beyond():
  out, _ = kernels(DUpsampling(5, 8, 4))
  assert out.logits.shape == (2, 46, 62, 5)


def test_depth_to_space_lays_each_pixel_out_as_a_block():
  x = jnp.arange(2 * 3 * 12.0).reshape(1, 2, 3, 12)  # 2x2 blocks of 3 classes
  got = depth_to_space(x, 2)
  assert got.shape == (1, 4, 6, 3)
  np.testing.assert_array_equal(got[0, 2, 5], x[0, 1, 2].reshape(2, 2, 3)[0, 1])
  np.testing.assert_array_equal(got[0, 3, 4], x[0, 1, 2].reshape(2, 2, 3)[1, 0])


@pytest.mark.parametrize("gate", ["sigmoid", "relu"])
def test_gau_decoder(gate):
  check_head(GAUDecoder(5, 8, (8, 6), gate=gate), 4, 8)


def test_gau_decoder_needs_a_width_for_each_stride():
  with pytest.raises(UserError, match="one length"):
    kernels(GAUDecoder(5, 8, (8,)))


@pytest.mark.parametrize("head", [PAN(5), FCN(5, auxiliary_features=4)])
def test_a_backbone_without_a_stage_before_the_last_is_refused_where_it_is_needed(head):
  endpoints = make_endpoints().replace(penultimate=None)
  with pytest.raises(UserError, match="stage before the last"):
    jax.eval_shape(lambda e: head.init(jax.random.key(0), e, False), endpoints)


def test_a_backbone_without_the_stride_is_refused():
  endpoints = make_endpoints().replace(strides=(2, 3, 8))
  with pytest.raises(UserError, match="stride 4"):
    jax.eval_shape(lambda e: DeepLabV3Plus(5).init(jax.random.key(0), e, False), endpoints)


def test_every_head_is_tried_here():
  assert SMALL.keys() == HEADS.keys()


@pytest.mark.parametrize("name", HEADS)
def test_the_branches_fit_every_head(tiny_config, name):
  fields, stride = SMALL[name]
  head = {"name": name, "auxiliary_features": 4, **fields}
  model = assemble.model(tiny_config(segmenter__head=head), 3)
  image = jax.ShapeDtypeStruct((2, 45, 61, 3), jnp.uint8)

  def run(image, train):
    variables = model.init(jax.random.key(0), image)
    rngs = {"dropout": jax.random.key(1)}
    return model.apply(variables, image, train, mutable=["batch_stats"], rngs=rngs)[0]

  rest = jax.eval_shape(lambda x: run(x, ()), image)
  assert rest.semantic.shape == rest.detail.shape == (2, 45, 61, 3)
  assert rest.error.shape == (2, 45, 61)
  assert rest.auxiliary is None
  assert jax.eval_shape(lambda x: run(x, ("segmenter",)), image).auxiliary.shape == (2, 45, 61, 3)
  assert jax.eval_shape(lambda x: run(x, ("detail",)), image).auxiliary is None
  features = jax.eval_shape(lambda x: model.segmenter.init_with_output(jax.random.key(0), x)[0].logits, image)
  assert features.shape[1:3] == (at(stride) if stride > 1 else (46, 62))


@pytest.mark.parametrize("name", HEADS)
def test_heads_compute_in_half_precision_with_float32_parameters(name):
  fields, _ = SMALL[name]
  head = HEADS[name](num_classes=5, dtype="bfloat16", **fields)
  endpoints = make_endpoints(dtype=jnp.bfloat16)
  out, variables = jax.eval_shape(lambda e: head.init_with_output(jax.random.key(0), e, False), endpoints)
  assert out.logits.dtype == jnp.float32
  assert out.high.dtype == jnp.bfloat16
  assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_preprocessing_subtracts_the_mean_and_orders_the_channels(channels):
  class Echo(SqueezeNet):
    def __call__(self, x, train):
      return x

  segmenter = Segmenter(Echo(), lambda x, train: x, (10, 20, 30), (2, 4, 5), channels)
  pixel = jnp.array([12, 28, 25], jnp.uint8).reshape(1, 1, 1, 3)
  out = segmenter.apply({}, pixel).ravel().tolist()
  assert out == ([1, 2, -1] if channels == "rgb" else [-1, 2, 1])
