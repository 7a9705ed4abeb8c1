import numpy as np
import pytest

from errseg_jax.models import rules


@pytest.mark.parametrize(
  ("layout", "shape", "want"),
  [
    ("copy", (5,), (5,)),
    ("conv", (8, 4, 3, 2), (3, 2, 4, 8)),
    ("depthwise", (8, 1, 3, 2), (3, 2, 1, 8)),
    ("dense_conv", (8, 4), (1, 1, 4, 8)),
    ("dense_conv7", (8, 4 * 49), (7, 7, 4, 8)),
    ("tf_depthwise", (3, 2, 8, 1), (3, 2, 1, 8)),
  ],
)
def test_layouts_put_axes_where_flax_has_them(layout, shape, want):
  assert rules.LAYOUTS[layout](np.zeros(shape)).shape == want


def test_a_dense_layer_over_a_flattened_map_is_a_convolution_of_its_size():
  rng = np.random.default_rng(0)
  x, weight = rng.normal(size=(2, 7, 7)), rng.normal(size=(3, 2 * 49))
  kernel = rules.LAYOUTS["dense_conv7"](weight)
  np.testing.assert_allclose(np.einsum("ihw,hwio->o", x, kernel), weight @ x.ravel())


def test_a_rule_speaks_only_of_whole_names():
  rule = rules.torch_conv(r"layer(\d)\.(\d+)\.conv(\d)", r"layer\1_\2/conv\3")[0]
  assert rule.path("layer3.22.conv2.weight") == "params/layer3_22/conv2/conv/kernel"
  assert rule.path("backbone.layer3.22.conv2.weight") is None
  assert rule.path("layer3.22.conv2.weight.extra") is None


def test_prefixes_are_literal_and_keep_alternatives_together():
  (rule,) = rules.prefixed((rules.Rule("a|b", "c"),), "net.", "backbone")
  assert rule.path("net.a") == rule.path("net.b") == "params/backbone/c"
  assert rule.path("netxa") is None
  assert rule.path("b") is None


@pytest.mark.parametrize(
  ("made", "names"),
  [
    (rules.torch_conv("c", "o", bias=True), ["c.weight", "c.bias"]),
    (rules.torch_depthwise("c", "o"), ["c.weight"]),
    (rules.torch_bn("b", "o"), ["b.weight", "b.bias", "b.running_mean", "b.running_var"]),
    (rules.tf_conv("c", "o", bias=True), ["c/weights", "c/biases"]),
    (rules.tf_depthwise("c", "o"), ["c/depthwise_weights"]),
    (
      rules.tf_bn("c", "o"),
      [f"c/BatchNorm/{n}" for n in ("gamma", "beta", "moving_mean", "moving_variance")],
    ),
  ],
)
def test_each_published_name_has_a_place_of_its_own(made, names):
  paths = [[rule.path(name) for rule in made if rule.path(name)] for name in names]
  assert all(len(p) == 1 for p in paths)
  assert len({p[0] for p in paths}) == len(names)
  statistics = [n for n, p in zip(names, paths, strict=True) if p[0].startswith("batch_stats/")]
  assert statistics == [n for n in names if "running" in n or "moving" in n]
