"""Losses by name: each against its formula, all against what every pixel loss owes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from errseg_jax.losses import DetailLoss, SemanticLoss
from errseg_jax.pixel_losses import (
  PIXEL_LOSSES,
  Confusion,
  CrossEntropy,
  Focal,
  InverseFrequency,
  MaxPooling,
  MedianFrequency,
  Ohem,
  pixel_cross_entropy,
)
from errseg_jax.structs import Outputs

B, H, W, C = 2, 4, 6, 5
BY_CLASS = (0.5, 2.0, 1.0, 3.0, 0.25)
LOSSES = {
  "cross_entropy": CrossEntropy(),
  "confusion": Confusion(),
  "confusion, row": Confusion(weights="row"),
  "confusion, diagonal": Confusion(diag="confusion"),
  "focal": Focal(),
  "focal, gamma 0.5": Focal(0.5),
  "ohem": Ohem(),
  "max_pooling": MaxPooling(),
  "inverse_frequency": InverseFrequency(BY_CLASS),
  "median_frequency": MedianFrequency(BY_CLASS),
}


def softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def row_normalised(rng, size, absent=()):
  """A confusion matrix; classes that are not there have a row of 0."""
  counts = rng.integers(0, 50, (size, size)) + 200 * np.eye(size, dtype=int)
  counts[list(absent)] = 0
  return counts / np.maximum(counts.sum(-1, keepdims=True), 1)


@pytest.fixture
def case():
  """(logits, label, confusion): confident and unconfident pixels, right and wrong, some ignored."""
  rng = np.random.default_rng(3)
  logits = rng.normal(0, 3, (B, H, W, C)).astype(np.float32)
  label = rng.integers(0, C, (B, H, W)).astype(np.uint8)
  label[1] = np.where(rng.random((H, W)) < 0.7, logits[1].argmax(-1), label[1])
  label[:, 0] = 255
  label[1, 1, :3] = 255
  return logits, label, row_normalised(rng, C).astype(np.float32)


def stage_loss(loss, logits, label, confusion):
  """As a semantic stage takes it."""
  return SemanticLoss(pixel=loss)(Outputs(logits), jnp.asarray(label), jnp.asarray(confusion))


def equation_4(logits, label, n, strength, weights, diag):
  """P1's gradient, pixel by pixel: dL / dlogits of one pixel [C], label i."""
  size = len(logits)
  e = np.exp(logits - logits.max())
  # q - 1 as the sum of the others, so that the reference does not cancel either.
  q, others = e / e.sum(), np.array([np.delete(e, j).sum() for j in range(size)]) / e.sum()
  c = n[label].copy()
  c[label] = 0
  if weights == "row" and c.sum():
    c /= c.sum()
  own = 1.0 if diag == "one" else n[label, label]
  common = own + strength * sum(c[j] * q[j] / -others[j] for j in range(size) if j != label)
  out = np.array([q[k] * common - strength * q[k] / -others[k] * c[k] for k in range(size)])
  out[label] = q[label] * common - own
  return out


VARIANTS = [
  {"strength": s, "weights": w, "diag": d}
  for s, w, d in ((5.0, "raw", "one"), (1.5, "row", "one"), (5.0, "raw", "confusion"))
]


@pytest.mark.parametrize("size", [2, 7, 19, 150])
@pytest.mark.parametrize("fields", VARIANTS, ids=lambda f: f"{f['weights']}-{f['diag']}")
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_the_gradient_of_confusion_is_equation_4(size, fields, scale):
  rng = np.random.default_rng(size)
  logits = rng.normal(0, scale, (6, size))
  label = rng.integers(0, size, 6).astype(np.uint8)
  label[5] = 0
  n = row_normalised(rng, size, absent=(0,))
  want = np.stack([equation_4(x, y, n, **fields) for x, y in zip(logits, label, strict=True)])

  def slope(dtype):
    total = lambda x: Confusion(**fields).values(x, jnp.asarray(label), jnp.asarray(n, dtype)).sum()  # noqa: E731
    return np.asarray(jax.grad(total)(jnp.asarray(logits, dtype)))

  got = slope(jnp.float32)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
  with jax.enable_x64(True):
    got = slope(jnp.float64)
  assert got.dtype == np.float64
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("fields", VARIANTS, ids=lambda f: f"{f['weights']}-{f['diag']}")
def test_confusion_is_its_formula(case, fields):
  logits, label, n = case
  q, want = softmax(logits.astype(float)), np.zeros(label.shape)
  for i in np.argwhere(label != 255):
    i = tuple(i)
    y = label[i]
    c = np.where(np.arange(C) == y, 0, n[y].astype(float))
    if fields["weights"] == "row":
      c /= c.sum()
    own = 1.0 if fields["diag"] == "one" else n[y, y]
    want[i] = -own * np.log(q[i][y]) - fields["strength"] * (c * np.log(1 - q[i])).sum()
  got = Confusion(**fields).values(jnp.asarray(logits), jnp.asarray(label), jnp.asarray(n))
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("size", [2, 19])
def test_logits_up_to_80_give_finite_losses_and_gradients(name, dtype, size):
  rng = np.random.default_rng(0)
  logits = rng.choice([-80.0, 0.0, 80.0], (2, 8, 8, size)) * rng.choice([1.0, 0.5], (2, 8, 8, size))
  logits[0, 0] = 80 * np.eye(size)[rng.integers(0, size, 8)]  # one class takes all
  logits[0, 1] *= 0  # none does
  label = rng.integers(0, size, (2, 8, 8)).astype(np.uint8)
  loss = LOSSES[name]
  if isinstance(loss, InverseFrequency):
    loss = dataclasses.replace(loss, class_weights=(1.0,) * size)
  n = row_normalised(rng, size, absent=(1,))
  values = loss.values(jnp.asarray(logits, dtype), jnp.asarray(label), jnp.asarray(n))
  assert values.dtype == jnp.float32
  assert np.isfinite(values).all()
  assert (np.asarray(values) >= 0).all()
  slope = jax.grad(lambda x: stage_loss(loss, x, label, n))(jnp.asarray(logits, dtype))
  assert slope.dtype == dtype
  assert np.isfinite(slope.astype(jnp.float32)).all()
  assert np.asarray(slope).any()


def test_a_confident_mistake_is_still_told_from_a_more_confident_one():
  # 1 - q rounds to 0 in float32 from a distance of 17 on.
  logits = jnp.array([[20.0, 0.0], [40.0, 0.0], [80.0, 0.0]])
  n = jnp.array([[0.5, 0.5], [0.5, 0.5]])
  got = Confusion(strength=1.0).values(logits, jnp.array([1, 1, 1], jnp.uint8), n)
  np.testing.assert_allclose(got, 1.5 * logits[:, 0], rtol=1e-5)


def test_at_strength_0_confusion_is_cross_entropy_bit_for_bit(case):
  logits, label, n = case
  pair = [
    jax.jit(jax.value_and_grad(lambda x, loss=loss: stage_loss(loss, x, label, n)))(logits)
    for loss in (Confusion(strength=0.0), CrossEntropy())
  ]
  for a, b in zip(*pair, strict=True):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
  own = Confusion(strength=0.0).values(jnp.asarray(logits), jnp.asarray(label))
  np.testing.assert_array_equal(own, pixel_cross_entropy(jnp.asarray(logits), jnp.asarray(label)))


@pytest.mark.parametrize("name", LOSSES)
def test_a_permutation_of_the_classes_permutes_everything(case, name):
  logits, label, n = case
  order = np.array([3, 0, 4, 2, 1])  # new class i is old class order[i]
  loss = moved = LOSSES[name]
  if isinstance(loss, InverseFrequency):
    moved = dataclasses.replace(loss, class_weights=tuple(np.array(BY_CLASS)[order]))
  table = np.full(256, 255, np.uint8)
  table[order] = np.arange(C)
  value, slope = jax.value_and_grad(lambda x: stage_loss(loss, x, label, n))(logits)
  other, slopes = jax.value_and_grad(lambda x: stage_loss(moved, x, table[label], n[np.ix_(order, order)]))(
    logits[..., order]
  )
  np.testing.assert_allclose(value, other, rtol=1e-5)
  np.testing.assert_allclose(slope[..., order], slopes, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_change_neither_value_nor_gradient(case, name):
  logits, label, n = case
  outside = label == 255
  other = logits.copy()
  other[outside] = np.random.default_rng(0).normal(0, 50, other[outside].shape)
  value, slope = jax.value_and_grad(lambda x: stage_loss(LOSSES[name], x, label, n))(logits)
  assert value > 0
  again, slopes = jax.value_and_grad(lambda x: stage_loss(LOSSES[name], x, label, n))(other)
  assert float(value) == float(again)
  assert not np.asarray(slope)[outside].any()
  np.testing.assert_array_equal(slope, slopes)
  values = LOSSES[name].values(jnp.asarray(logits), jnp.asarray(label), jnp.asarray(n))
  weights = LOSSES[name].pixel_weights(values, jnp.asarray(label))
  assert not np.asarray(values)[outside].any()
  assert not np.asarray(weights)[outside].any()


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_a_valid_pixel_gives_zero_loss_and_gradient(case, name):
  logits, label, n = case
  none = np.full_like(label, 255)
  value, slope = jax.value_and_grad(lambda x: stage_loss(LOSSES[name], x, none, n))(logits)
  assert float(value) == 0
  assert not np.asarray(slope).any()


@pytest.mark.parametrize("name", LOSSES)
def test_no_gradient_flows_through_the_weights(case, name):
  logits, label, n = case

  def total(x):
    values = LOSSES[name].values(x, jnp.asarray(label), jnp.asarray(n))
    return LOSSES[name].pixel_weights(values, jnp.asarray(label)).sum()

  assert not np.asarray(jax.grad(total)(jnp.asarray(logits))).any()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_is_its_formula(case, gamma):
  logits, label, _ = case
  p = softmax(logits.astype(float))
  p = np.take_along_axis(p, np.where(label == 255, 0, label)[..., None].astype(int), -1)[..., 0]
  want = np.where(label == 255, 0, -((1 - p) ** gamma) * np.log(p))
  got = Focal(gamma).values(jnp.asarray(logits), jnp.asarray(label))
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_focal_of_gamma_0_is_cross_entropy(case):
  logits, label, n = case
  pair = [
    jax.value_and_grad(lambda x, f=f: stage_loss(f, x, label, n))(logits)
    for f in (Focal(0.0), CrossEntropy())
  ]
  for a, b in zip(*pair, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize(("threshold", "share"), [(0.7, 1 / 16), (0.05, 0.3), (1.0, 0.5)])
def test_ohem_keeps_what_is_not_right_yet_and_a_share_in_any_case(case, threshold, share):
  logits, label, n = case
  chosen = []
  for x, y in zip(logits, label, strict=True):
    p = softmax(x.astype(float))[y != 255]
    p = np.sort(p[np.arange(len(p)), y[y != 255]])
    kept = max((p < threshold).sum(), int(np.ceil(share * len(p))))
    chosen.append(-np.log(p[:kept]))
  got = stage_loss(Ohem(threshold, share), logits, label, n)
  np.testing.assert_allclose(got, np.concatenate(chosen).mean(), rtol=1e-5)


def best_weights(losses, p, support):
  """The weights by a general solver: max sum w l, mean(w^p) <= 1, 0 <= w <= support^(-1/p)."""
  n = len(losses)
  norm = {"type": "ineq", "fun": lambda w: 1 - (w**p).mean(), "jac": lambda w: -p * w ** (p - 1) / n}
  return minimize(
    lambda w: -(w * losses).mean(),
    np.full(n, 0.9),
    jac=lambda w: -losses / n,
    bounds=[(1e-9, support ** (-1 / p))] * n,
    constraints=[norm],
    options={"maxiter": 2000, "ftol": 1e-13},
  ).x


@pytest.mark.parametrize(("p", "support"), [(1.7, 0.25), (1.7, 0.5), (1.2, 0.4), (3.0, 0.3), (2.0, 0.01)])
@pytest.mark.parametrize("spread", [0.3, 1.0, 2.0])
def test_max_pooling_finds_the_weights_that_are_worst(p, support, spread):
  rng = np.random.default_rng(7)
  losses = np.exp(rng.normal(0, spread, (2, 3, 4)))
  label = np.zeros((2, 3, 4), np.uint8)
  label[1, 0, :3] = 255
  with jax.enable_x64(True):
    got = np.asarray(MaxPooling(p, support).pixel_weights(jnp.asarray(losses), jnp.asarray(label)))
  for image in range(2):
    valid = label[image] != 255
    mine = losses[image][valid]
    want, weights = best_weights(mine, p, support), got[image][valid]
    assert (weights**p).mean() <= 1 + 1e-9
    assert weights.max() <= support ** (-1 / p) + 1e-9
    np.testing.assert_allclose((weights * mine).sum(), (want * mine).sum(), rtol=1e-5)
    np.testing.assert_allclose(weights, want, atol=5e-3)
    assert not got[image][~valid].any()


def test_max_pooling_keeps_its_bounds_where_most_losses_are_zero():
  losses = jnp.zeros((3, 1, 8)).at[0, 0, 2].set(5.0).at[2].set(0.3)
  weights = np.asarray(MaxPooling(2.0, 0.25).pixel_weights(losses, jnp.zeros((3, 1, 8), jnp.uint8)))
  np.testing.assert_allclose(weights[0, 0], 2.0 * (np.arange(8) == 2), rtol=1e-6)  # (1 / 0.25)^(1 / 2)
  np.testing.assert_allclose(weights[1:], 1.0, rtol=1e-5)  # equal losses
  uneven = jnp.arange(8.0)[None, None]
  full = MaxPooling(1.7, 1.0).pixel_weights(uneven, jnp.zeros((1, 1, 8), jnp.uint8))
  np.testing.assert_allclose(full[0, 0, 1:], 1.0, rtol=1e-5)


COUNTS = np.array([[6, 2, 0, 0], [0, 4, 4, 0]])  # labelled pixels of two images


def test_frequencies_weigh_classes():
  shares = COUNTS.sum(0) / COUNTS.sum()
  inverse = np.array(InverseFrequency.counted(COUNTS))
  np.testing.assert_allclose(inverse / inverse[0], [1, 1, 6 / 4, 6 / 4])  # the absent one as the rarest
  present = np.array([6 / 8, 6 / 16, 4 / 8])
  median = np.array(MedianFrequency.counted(COUNTS))
  np.testing.assert_allclose(median[:3] / median[2], (np.median(present) / present)[:3])
  assert median[3] == median.max()
  for weights in (inverse, median):
    np.testing.assert_allclose((weights * shares).sum(), 1)
  assert InverseFrequency.counted(np.zeros((1, 2), int)) == (1.0, 1.0)


@pytest.mark.parametrize("cls", [InverseFrequency, MedianFrequency])
def test_class_weights_multiply_cross_entropy(case, cls):
  logits, label, n = case
  each = np.array([*BY_CLASS, *[0.0] * (256 - C)])[label]
  pixel = np.asarray(pixel_cross_entropy(jnp.asarray(logits), jnp.asarray(label)))
  np.testing.assert_allclose(
    stage_loss(cls(BY_CLASS), logits, label, n), (pixel * each).sum() / each.sum(), rtol=1e-5
  )
  with pytest.raises(ValueError, match="class_weights"):
    stage_loss(cls(), logits, label, n)


def test_a_wanted_confusion_matrix_must_be_there_and_fit(case):
  logits, label, n = case
  outputs = Outputs(logits, None, logits)
  for loss in (SemanticLoss(pixel=Confusion()), DetailLoss("all", pixel=Confusion(0.0, diag="confusion"))):
    with pytest.raises(ValueError, match="needs the confusion matrix"):
      loss(outputs, jnp.asarray(label))
    with pytest.raises(ValueError, match=r"shape \(4, 4\) for 5 classes"):
      loss(outputs, jnp.asarray(label), jnp.asarray(n[:4, :4]))
  assert not any(PIXEL_LOSSES[name]().wants_confusion for name in PIXEL_LOSSES if name != "confusion")
  assert not Confusion(0.0).wants_confusion


@pytest.mark.parametrize("name", LOSSES)
def test_stages_multiply_their_own_weights_with_those_of_the_pixel_loss(case, name):
  logits, label, n = case
  loss, label = LOSSES[name], jnp.asarray(label)
  rng = np.random.default_rng(5)
  error = rng.normal(0, 2, label.shape).astype(np.float32)
  by_class = () if isinstance(loss, InverseFrequency) else BY_CLASS
  given = (
    np.array([*by_class, *[0.0] * (256 - len(by_class))])[label] if by_class else np.asarray(label != 255)
  )
  values = loss.values(jnp.asarray(logits), label, jnp.asarray(n))
  own = given * np.asarray(loss.pixel_weights(values, label))

  def mean(weights):
    return (np.asarray(values) * weights).sum() / max(weights.sum(), 1.0)

  outputs = Outputs(rng.normal(0, 1, logits.shape).astype(np.float32), error, logits, auxiliary=logits)
  fields = {"pixel": loss, "class_weights": by_class}
  soft = 1 + 4 / (1 + np.exp(-error))
  ranked = np.zeros(label.shape)
  for image in range(B):
    mine = np.where(label[image] == 255, -np.inf, values[image])
    least = np.sort(mine.ravel())[::-1][int(np.ceil(0.5 * (label[image] != 255).sum())) - 1]
    ranked[image] = mine >= least
  for weights, want in (("all", own), ("soft", own * soft), ("rank", own * ranked)):
    got = DetailLoss(weights, share=0.5, **fields)(outputs, label, jnp.asarray(n))
    np.testing.assert_allclose(got, mean(want), rtol=1e-5)
  reached = rng.random(label.shape) < 0.5
  cascade = outputs.replace(stages=((logits, jnp.ones(label.shape, bool)), (logits, jnp.asarray(reached))))
  got = DetailLoss("cascade", **fields)(cascade, label, jnp.asarray(n))
  np.testing.assert_allclose(got, mean(own) + mean(own * reached), rtol=1e-5)
  same = outputs.replace(semantic=logits)
  np.testing.assert_allclose(SemanticLoss(**fields)(same, label, jnp.asarray(n)), 1.4 * mean(own), rtol=1e-5)
