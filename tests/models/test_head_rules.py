"""Published heads by their names and shapes: TF DeepLab's variables, and the counts of the publications."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax.convert.engine import convert
from errseg_jax.errors import UserError
from errseg_jax.models.backbones import Endpoints
from errseg_jax.models.heads import (
  DPC,
  DeepLabV3,
  DeepLabV3Plus,
  LargeFOV,
  PSPNet,
  deeplabv3_rules,
  deeplabv3plus_rules,
  dpc_rules,
  pspnet_rules,
)


def like(head, image=(1025, 2049), output_stride=16, channels=2048, low=256):
  """(shapes of a head's variables, its Features) behind a backbone, for an image."""

  def at(stride, channels):
    return jax.ShapeDtypeStruct((1, *(-(-n // stride) for n in image), channels), jnp.float32)

  endpoints = Endpoints(
    (at(4, low),), at(output_stride, channels), (4,), output_stride, at(output_stride, 1024)
  )
  out, variables = jax.eval_shape(lambda e: head.init_with_output(jax.random.key(0), e, False), endpoints)
  return variables, out


def millions(variables):
  return sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) / 1e6


def norm(scope, channels):
  names = ("gamma", "beta", "moving_mean", "moving_variance")
  return {f"{scope}/BatchNorm/{name}": (channels,) for name in names}


def unit(scope, inputs, outputs=256):
  return {f"{scope}/weights": (1, 1, inputs, outputs), **norm(scope, outputs)}


def separable(scope, inputs):
  depthwise = {
    f"{scope}_depthwise/depthwise_weights": (3, 3, inputs, 1),
    **norm(f"{scope}_depthwise", inputs),
  }
  return {**depthwise, **unit(f"{scope}_pointwise", inputs)}


DECODER = {
  **unit("decoder/feature_projection0", 256, 48),
  **separable("decoder/decoder_conv0", 304),
  **separable("decoder/decoder_conv1", 256),
}
CLASSIFIER = {"logits/semantic/weights": (1, 1, 256, 19), "logits/semantic/biases": (19,)}
ASPP = {
  **unit("image_pooling", 2048),
  **unit("aspp0", 2048),
  **separable("aspp1", 2048),
  **separable("aspp2", 2048),
  **separable("aspp3", 2048),
  **unit("concat_projection", 1280),
}
CELL = {
  **separable("meta_architecture/branch0", 2048),
  **separable("meta_architecture/branch1", 256),
  **separable("meta_architecture/branch2", 256),
  **separable("meta_architecture/branch3", 256),
  **separable("meta_architecture/branch4", 256),
  **unit("meta_architecture/concat_projection", 1280),
}
MOBILENET = {
  **unit("image_pooling", 320),
  **unit("aspp0", 320),
  **unit("concat_projection", 512),
  **CLASSIFIER,
}
NETWORKS = {
  "deeplabv3plus": (
    DeepLabV3Plus(19, **deeplabv3plus_rules.FIELDS["tf"]),
    deeplabv3plus_rules.tf(),
    {**ASPP, **DECODER, **CLASSIFIER},
    2048,
  ),
  "dpc": (DPC(19, **dpc_rules.FIELDS["tf"]), dpc_rules.tf(), {**CELL, **DECODER, **CLASSIFIER}, 2048),
  "mobilenetv2": (
    DeepLabV3(19, **deeplabv3_rules.FIELDS["tf_mobilenetv2"]),
    deeplabv3_rules.tf(),
    MOBILENET,
    320,
  ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_dump_of_tf_deeplab_s_variables_loads_strictly(name):
  head, rules, published, channels = NETWORKS[name]
  variables, _ = like(head, channels=channels)
  arrays = {n: np.full(shape, i, np.float32) for i, (n, shape) in enumerate(published.items())}
  got = convert(rules, arrays, variables, name)
  # Each array arrives whole and once.
  firsts = sorted(float(leaf.ravel()[0]) for leaf in jax.tree.leaves(got))
  assert firsts == [float(i) for i in range(len(published))]
  del arrays["logits/semantic/biases"]
  with pytest.raises(UserError, match="classifier/conv/bias"):
    convert(rules, arrays, variables, name)


@pytest.mark.parametrize(("image", "grid"), [((1025, 2049), (257, 513)), ((513, 513), (129, 129))])
@pytest.mark.parametrize("name", ["deeplabv3plus", "dpc"])
def test_the_decoder_s_grid_is_the_published_one(name, image, grid):
  _, out = like(NETWORKS[name][0], image)
  assert out.logits.shape == (1, *grid, 19)


def test_counts_are_the_published_ones():
  """In millions; ASPP, decoder and classifier together, as the parts of a network of 41.05 M."""
  counts = {name: millions(like(NETWORKS[name][0])[0]) for name in ("deeplabv3plus", "dpc")}
  assert round(counts["deeplabv3plus"] - counts["dpc"], 2) == 1.87  # 3.02 M of ASPP, 1.15 M of the cell
  assert round(counts["deeplabv3plus"], 2) == 3.19
  # PSPNet: 46.72 M with the 23.64 M of its backbone, 2.36 M more with the auxiliary head.
  semseg = {**pspnet_rules.FIELDS["semseg"], "auxiliary_features": 0}
  plain = millions(like(PSPNet(21, **semseg))[0])
  assert round(millions(like(PSPNet(21, **pspnet_rules.FIELDS["semseg"]))[0]) - plain, 2) == 2.36
  assert round(plain, 2) == 23.08
  wide = LargeFOV(19, 512, kernel_size=3, dilation=12, dropout=0.0)
  assert round(millions(like(wide, channels=4096)[0]), 2) == 18.96
