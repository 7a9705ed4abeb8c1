import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from errseg_jax import assemble, commands
from errseg_jax.bench import model as bench
from errseg_jax.bench import roofline
from errseg_jax.bench.command import show
from errseg_jax.bench.model import model_cost
from errseg_jax.bench.size import convolutions, image_size, size
from errseg_jax.cli import main
from errseg_jax.errors import UserError
from errseg_jax.models.backbones import ResNet
from errseg_jax.models.heads import deeplabv3plus_rules, dpc_rules, pspnet_rules
from errseg_jax.models.layers import Conv, DepthwiseConv
from errseg_jax.models.resize import resize


class ByHand(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = Conv(8, 3, 2, name="dense")(x)
    x = DepthwiseConv(3, dilation=2, name="depthwise")(x)
    return Conv(4, 1, use_bias=True, name="pointwise")(resize(x, (20, 24)))


def found(module, size):
  x = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
  variables = jax.eval_shape(module.init, jax.random.key(0), x)
  program = jax.make_jaxpr(module.apply)(variables, x)
  return list(convolutions(program.jaxpr, ""))


def test_each_convolution_counts_its_multiply_adds_once():
  """9x11 at stride 2 is 5x6. The depthwise convolution has a form for CPUs beside its native one; no resize counts."""
  counts = found(ByHand(), (9, 11))
  assert [(scope.split("/")[1], count) for scope, count in counts] == [
    ("dense", 5 * 6 * 8 * 27),
    ("depthwise", 5 * 6 * 8 * 9),
    ("pointwise", 20 * 24 * 4 * 8),
  ]


class Final(nn.Module):
  """ResNet-50 up to the last map; the published count has 2.05 M for the classifier on top."""

  @nn.compact
  def __call__(self, x):
    return ResNet(50, output_stride=32)(x, False).final


def test_resnet50_has_the_published_multiply_adds():
  assert sum(count for _, count in found(Final(), (224, 224))) / 1e9 == pytest.approx(4.087, abs=1e-3)


RESNET = {"name": "resnet", "stem": "semseg", "first_dilation": "stage", "output_stride": 8}
PSPNET = {"name": "pspnet", **pspnet_rules.FIELDS["semseg"]}
LARGE_FOV = {"name": "largefov", "hidden_features": 512, "kernel_size": 3, "dilation": 12}
XCEPTION = {"name": "deeplabv3plus", **deeplabv3plus_rules.FIELDS["tf"]}
DPC = {"name": "dpc", **dpc_rules.FIELDS["tf"]}


@pytest.mark.parametrize(
  ("backbone", "head", "millions", "billions"),
  [
    # Parameters of the backbone and of the head, multiply-adds of both; published or worked out by hand.
    ({"name": "xception", "depth": 65}, XCEPTION, (37.87, 3.19), 418.4),
    ({"name": "xception", "depth": 71}, DPC, (40.29, 1.32), None),
    ({**RESNET, "depth": 50}, PSPNET, (23.63, 23.08), None),
    ({**RESNET, "depth": 101}, PSPNET, (42.62, 23.08), None),
    ({"name": "wide_resnet"}, LARGE_FOV, (105.07, 18.96), None),
  ],
)
def test_the_published_networks_have_the_published_sizes(tiny_config, backbone, head, millions, billions):
  config = assemble.with_defaults(
    tiny_config(
      segmenter__backbone=backbone,
      segmenter__head=head,
      data__num_classes=19,
      data__class_names=(),
    )
  )
  groups = size(config, 1025, 2049)["groups"]
  parts = [groups["segmenter/backbone"], groups["segmenter/head"]]
  assert [part["parameters"] / 1e6 for part in parts] == pytest.approx(millions, abs=0.006)
  if billions:
    assert sum(part["multiply_adds"] for part in parts) / 1e9 == pytest.approx(billions, abs=0.1)
  if head is PSPNET:
    assert groups["segmenter/head/auxiliary"]["parameters"] / 1e6 == pytest.approx(2.36, abs=0.01)
    assert groups["segmenter/head/auxiliary"]["multiply_adds"] == 0


def test_groups_add_up_to_the_parameters_of_the_model(tiny_config):
  config = tiny_config()
  sizes = size(config, 64, 96)
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)
  params = jax.eval_shape(assemble.model(config, 3).init, jax.random.key(0), image)["params"]
  groups = {name: group["parameters"] for name, group in sizes["groups"].items()}
  assert groups["detail"] == sum(leaf.size for leaf in jax.tree.leaves(params["detail"]))
  assert sizes["total"]["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(params))
  assert all(group["multiply_adds"] > 0 for group in sizes["groups"].values())


def test_the_classifier_of_a_group_by_hand(tiny_config):
  """One more class costs the 1x1 classifier at stride 4 its 16 inputs and a bias."""
  few, more = (size(tiny_config(data__num_classes=c, data__class_names=()), 64, 96) for c in (3, 4))
  few, more = (sizes["groups"]["segmenter/head"] for sizes in (few, more))
  assert more["parameters"] - few["parameters"] == 16 + 1
  assert more["multiply_adds"] - few["multiply_adds"] == 16 * 24 * 16


def test_the_command_prints_a_table_or_json(tiny_config, capsys, monkeypatch):
  monkeypatch.setattr(commands, "required_config", lambda args: tiny_config())
  assert main(["bench", "--what=size", "--size=64x96", "--json"]) == 0
  assert json.loads(capsys.readouterr().out) == size(tiny_config(), 64, 96)
  assert main(["bench", "--what=size", "--size=64x96"]) == 0
  assert "segmenter/head" in capsys.readouterr().out
  assert main(["bench", "--what=speed"]) == 2
  assert "known: size, model, train" in capsys.readouterr().err


TIMES = {  # seconds of three rounds; the second one is slow for all
  "segmenter": np.array([0.10, 0.30, 0.10]),
  "error": np.array([0.11, 0.31, 0.11]),
  "detail": np.array([0.12, 0.32, 0.12]),
  "both": np.array([0.15, 0.35, 0.15]),
}
ALONE = TIMES | {"guided": TIMES["segmenter"], "network": TIMES["segmenter"]}


def mocked(monkeypatch, seconds):
  monkeypatch.setattr(bench, "measured", lambda *args: (seconds, 0))
  monkeypatch.setattr(bench, "flop_rate", lambda dtype: 1e9)


@pytest.mark.parametrize(("prior", "error_ms"), [("detail", 30.0), ("msp", 10.0)])
def test_a_branch_costs_what_it_adds(tiny_config, monkeypatch, prior, error_ms):
  """With prior "detail" the error program runs the detail branch too, and is not charged for it."""
  mocked(monkeypatch, ALONE)
  cost = model_cost(tiny_config(error_branch__prior=prior), 64, 96)
  assert "subnets" not in cost["groups"]
  assert cost["groups"]["segmenter"]["ms"] == pytest.approx(100)
  assert cost["groups"]["detail"]["ms"] == pytest.approx(20)
  assert cost["groups"]["error"]["ms"] == pytest.approx(error_ms)
  assert (cost["branches"]["ms"], cost["branches"]["share"]) == pytest.approx((50, 50))
  detail = cost["groups"]["detail"]
  assert detail["share_of_flops"] == pytest.approx(2 * detail["multiply_adds"] / 0.02 / 1e9)
  assert cost["images_per_s"] == pytest.approx(1 / 0.15)
  sizes = size(tiny_config(error_branch__prior=prior), 64, 96)
  for key in ("parameters", "multiply_adds"):
    total = cost["groups"]["segmenter"][key] + cost["branches"][key]
    assert total == sizes["total"][key]


def test_subnets_cost_what_they_add_and_the_branches_come_on_top(tiny_config, monkeypatch):
  mocked(monkeypatch, ALONE | {"network": TIMES["segmenter"] + 0.004})
  order = ("semantic", "subnets", "detail", "error")
  config = tiny_config(order=order, groups__named=(("ground", "sign"),), error_branch__prior="detail")
  cost, sizes = model_cost(config, 64, 96), size(config, 64, 96)
  assert cost["groups"]["subnets"]["ms"] == pytest.approx(4)
  assert cost["groups"]["detail"]["ms"] == pytest.approx(16)
  assert cost["branches"]["ms"] == pytest.approx(46)
  parts = (cost["groups"]["segmenter"], cost["groups"]["subnets"], cost["branches"])
  assert sum(part["parameters"] for part in parts) == sizes["total"]["parameters"]


def test_guidance_costs_what_it_adds_its_layers_counted(tiny_config, monkeypatch):
  mocked(monkeypatch, TIMES | dict.fromkeys(("guided", "network"), TIMES["segmenter"] + 0.002))
  config = tiny_config(order=("semantic", "guided", "detail", "error"), error_branch__prior="detail")
  cost = model_cost(config, 64, 96)["groups"]["guidance"]
  assert cost["ms"] == pytest.approx(2)
  # 16 channels reduced to 8 at stride 16, a grid of 3 x 3, layers of 8, three classes.
  cells, hidden, classes = 3 * 3 * 8 * 8, 8 * 8, 8 * 3
  assert cost["multiply_adds"] == 4 * 6 * 16 * 8 + cells + hidden + classes
  assert cost["parameters"] == 16 * 8 + 8 + cells + 8 + hidden + 8 + classes + 3


def test_the_model_is_timed(tiny_config, capsys, monkeypatch):
  monkeypatch.setattr(commands, "required_config", lambda args: tiny_config())
  monkeypatch.setattr(bench, "ROUNDS", 2)
  monkeypatch.setitem(roofline.SIDE, "cpu", 32)
  assert main(["bench", "--what=model", "--size=64x96", "--json"]) == 0
  cost = json.loads(capsys.readouterr().out)
  assert cost["groups"]["segmenter"]["ms"] > 0
  assert cost["images_per_s"] > 0
  assert cost["temporary_MB"] > 0
  show(cost, bench.table, False)
  assert "both branches" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "513", "0x3", "axb", "513x513x3"])
def test_a_size_is_height_x_width(text):
  assert image_size("1025x2049") == (1025, 2049)
  with pytest.raises(UserError, match="HEIGHTxWIDTH"):
    image_size(text)
