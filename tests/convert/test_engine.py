import jax
import numpy as np
import pytest

from errseg_jax.convert.engine import convert, describe
from errseg_jax.errors import UserError
from errseg_jax.models.rules import torch_bn, torch_conv

RULES = (*torch_conv(r"conv(\d)", r"c\1"), *torch_bn("bn", "bn"))


def target():
  kernel, vector = (jax.ShapeDtypeStruct(s, np.float32) for s in ((3, 3, 4, 8), (8,)))
  return {
    "params": {"c1": {"conv": {"kernel": kernel}}, "bn": {"scale": vector, "bias": vector}},
    "batch_stats": {"bn": {"mean": vector, "var": vector}},
  }


def published():
  rng = np.random.default_rng(0)
  names = ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
  return {"conv1.weight": rng.normal(size=(8, 4, 3, 3)), **{name: rng.normal(size=8) for name in names}}


def test_every_array_goes_to_its_place_in_our_type():
  arrays = published()
  got = convert(RULES, {**arrays, "bn.num_batches_tracked": np.array(3)}, target(), "a.pth")
  kernel = got["params"]["c1"]["conv"]["kernel"]
  assert kernel.dtype == np.float32
  np.testing.assert_allclose(kernel[0, 2, 1, 5], arrays["conv1.weight"][5, 1, 0, 2], rtol=1e-6)
  np.testing.assert_allclose(got["batch_stats"]["bn"]["var"], arrays["bn.running_var"], rtol=1e-6)


def without(arrays, name):
  return {n: a for n, a in arrays.items() if n != name}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda a: without(a, "bn.bias"), r"missing: 1 \(params/bn/bias\)"),
    (lambda a: {**a, "fc.weight": np.zeros((2, 3))}, r"extra: 1 \(fc\.weight\)"),
    (lambda a: {**a, "conv2.weight": a["conv1.weight"]}, r"extra: 1 \(conv2\.weight\)"),
    (lambda a: {**a, "bn.bias": np.zeros(9)}, r"other shape: 1 \(bn\.bias \[9\], not \[8\]\)"),
    (lambda a: {**a, "conv1.weight": np.zeros((8, 4))}, r"other shape: 1 \(conv1\.weight \[8, 4\]"),
    (lambda a: {f"model.{n}": v for n, v in a.items()}, r"missing: 5 .*extra: 5 .*The file holds 5 arrays"),
    (lambda a: {}, r"missing: 5 .*The file holds no arrays"),
  ],
)
def test_what_does_not_fit_is_listed(change, message):
  with pytest.raises(UserError, match=rf"a\.pth is not this network.*{message}"):
    convert(RULES, change(published()), target(), "a.pth")


def test_two_arrays_for_one_place_are_one_too_many():
  rules = (*RULES, *torch_conv("old", "c1"))
  arrays = published()
  with pytest.raises(UserError, match=r"extra: 1 \(old\.weight\)"):
    convert(rules, {**arrays, "old.weight": arrays["conv1.weight"]}, target(), "a.pth")


def test_long_lists_are_capped_and_counted():
  extra = {f"x{i:02}": np.zeros(1) for i in range(20)}
  with pytest.raises(UserError, match=r"extra: 20 \(x00, .*x07, and 12 more\)"):
    convert(RULES, {**published(), **extra}, target(), "a.pth")


def test_a_file_is_described_by_its_size_and_ends():
  text = describe({f"n{i}": np.zeros((2, i + 1)) for i in range(10)})
  assert text == (
    "10 arrays of 0.00 M numbers: n0 [2, 1], n1 [2, 2], n2 [2, 3], ..., n7 [2, 8], n8 [2, 9], n9 [2, 10]"
  )
