"""Rules for the parts that published heads have in common."""

from __future__ import annotations

from errseg_jax.models.rules import (
  Rule,
  prefixed,
  tf_bn,
  tf_conv,
  tf_depthwise,
  torch_bn,
  torch_conv,
  torch_depthwise,
)


def torch_unit(conv: str, bn: str, ours: str) -> tuple[Rule, ...]:
  """A PyTorch convolution and its batch normalisation into a `layers.ConvBNReLU` at `ours`."""
  return (*torch_conv(conv, f"{ours}/conv"), *torch_bn(bn, f"{ours}/bn"))


def smp_separable(conv: str, bn: str, ours: str) -> tuple[Rule, ...]:
  """A separable convolution of segmentation-models-pytorch, without normalisation between its halves."""
  return (
    *torch_depthwise(rf"{conv}\.0", f"{ours}/depthwise"),
    *torch_conv(rf"{conv}\.1", f"{ours}/pointwise"),
    *torch_bn(bn, f"{ours}/bn"),
  )


def mmseg_unit(published: str, ours: str) -> tuple[Rule, ...]:
  """A ConvModule of mmsegmentation."""
  return torch_unit(rf"{published}\.conv", rf"{published}\.bn", ours)


def mmseg_separable(published: str, ours: str) -> tuple[Rule, ...]:
  """A DepthwiseSeparableConvModule of mmsegmentation."""
  depthwise, pointwise = rf"{published}\.depthwise_conv", rf"{published}\.pointwise_conv"
  return (
    *torch_depthwise(rf"{depthwise}\.conv", f"{ours}/depthwise"),
    *torch_bn(rf"{depthwise}\.bn", f"{ours}/depthwise_bn"),
    *torch_conv(rf"{pointwise}\.conv", f"{ours}/pointwise"),
    *torch_bn(rf"{pointwise}\.bn", f"{ours}/bn"),
  )


def mmseg_auxiliary() -> tuple[Rule, ...]:
  """The auxiliary FCN head of mmsegmentation's networks."""
  rules = (*mmseg_unit(r"convs\.0", "hidden"), *torch_conv("conv_seg", "classifier", bias=True))
  return prefixed(rules, "auxiliary_head.", "auxiliary")


def tf_unit(published: str, ours: str) -> tuple[Rule, ...]:
  """A TF-slim convolution with batch normalisation."""
  return (*tf_conv(published, f"{ours}/conv"), *tf_bn(published, f"{ours}/bn"))


def tf_separable(published: str, ours: str) -> tuple[Rule, ...]:
  """A TF DeepLab separable convolution, its halves under names of their own."""
  return (
    *tf_depthwise(f"{published}_depthwise", f"{ours}/depthwise"),
    *tf_bn(f"{published}_depthwise", f"{ours}/depthwise_bn"),
    *tf_conv(f"{published}_pointwise", f"{ours}/pointwise"),
    *tf_bn(f"{published}_pointwise", f"{ours}/bn"),
  )


def sequential_classifier(published: str, ours: str = "") -> tuple[Rule, ...]:
  """Convolution, batch normalisation, ReLU, dropout, classifier in a PyTorch sequence: `HiddenClassifier`."""
  rules = (*torch_unit("0", "1", "hidden"), *torch_conv("4", "classifier", bias=True))
  return prefixed(rules, published, ours)


def smp_classifier() -> tuple[Rule, ...]:
  """The classifier of every network of segmentation-models-pytorch."""
  return torch_conv(r"segmentation_head\.0", "classifier", bias=True)
