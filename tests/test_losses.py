import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax.errors import UserError
from errseg_jax.losses import DetailLoss, ErrorLoss, SemanticLoss, error_target, jaccard_loss
from errseg_jax.pixel_losses import class_weights, pixel_cross_entropy
from errseg_jax.structs import Outputs

B, H, W, C = 2, 5, 7, 4
LOSSES = {
  "semantic": SemanticLoss(),
  "error": ErrorLoss(),
  "error, fixed w3": ErrorLoss(w3=0.04),
  "detail mask": DetailLoss("mask", t=0.5),
  "detail soft": DetailLoss("soft"),
  "detail all": DetailLoss("all"),
  "detail, class weights": DetailLoss("soft", class_weights=(1.0, 2.0, 0.5, 3.0)),
  "detail soft, max probability": DetailLoss("soft", max_probability=True),
  "detail rank": DetailLoss("rank"),
  "semantic, Jaccard": SemanticLoss(jaccard=2.0),
  "detail, Jaccard": DetailLoss("soft", jaccard=1.0),
  "true class probability": ErrorLoss(target="tcp"),
  "normalised true class probability": ErrorLoss(target="tcp_normalised"),
}


def softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


@pytest.fixture
def case():
  """(Outputs of numpy arrays, label): confident and unconfident pixels, right and wrong, some ignored."""
  rng = np.random.default_rng(1)
  semantic = rng.normal(0, 3, (B, H, W, C)).astype(np.float32)
  detail = rng.normal(0, 2, (B, H, W, C)).astype(np.float32)
  error = rng.normal(0, 2, (B, H, W)).astype(np.float32)
  label = rng.integers(0, C, (B, H, W)).astype(np.uint8)
  label[1] = np.where(rng.random((H, W)) < 0.7, semantic[1].argmax(-1), label[1])
  label[:, 0] = 255
  label[1, 1, :3] = 255
  return Outputs(semantic, error, detail), label


def pixels(label):
  """Indices of the valid pixels, one by one."""
  return [tuple(i) for i in np.argwhere(label != 255)]


def test_cross_entropy_is_minus_log_probability_of_the_label(case):
  outputs, label = case
  got = pixel_cross_entropy(jnp.array(outputs.semantic), jnp.array(label))
  want = np.zeros(label.shape)
  for i in pixels(label):
    want[i] = -np.log(softmax(outputs.semantic[i].astype(float))[label[i]])
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  mean = want.sum() / len(pixels(label))
  np.testing.assert_allclose(SemanticLoss()(outputs, jnp.array(label)), mean, rtol=1e-5)


def test_auxiliary_logits_add_the_same_loss_by_their_weight(case):
  outputs, label = case
  label, weights = jnp.array(label), (0.5, 2.0, 1.0, 1.5)
  both = outputs.replace(auxiliary=outputs.detail)
  main, extra = (
    SemanticLoss(class_weights=weights)(Outputs(x), label) for x in (outputs.semantic, outputs.detail)
  )
  got = SemanticLoss(class_weights=weights)(both, label)
  np.testing.assert_allclose(got, main + 0.4 * extra, rtol=1e-6)
  got = SemanticLoss(class_weights=weights, auxiliary_weight=0.0)(both, label)
  np.testing.assert_allclose(got, main, rtol=1e-6)
  with pytest.raises(UserError, match="auxiliary_weight"):
    SemanticLoss(auxiliary_weight=-0.1)


def test_cross_entropy_survives_extreme_logits():
  logits = jnp.array([[1e4, -1e4, 0.0]])
  value, grad = jax.value_and_grad(lambda x: pixel_cross_entropy(x, jnp.array([1])).sum())(logits)
  np.testing.assert_allclose(value, 2e4)
  np.testing.assert_allclose(grad, [[1, -1, 0]])


def test_the_error_target_is_false_where_right_and_where_ignored(case):
  outputs, label = case
  target = np.asarray(error_target(jnp.array(outputs.semantic), jnp.array(label)))
  right = outputs.semantic.argmax(-1) == label
  assert not target[right].any()
  assert not target[label == 255].any()
  assert target[~right & (label != 255)].all()
  assert target.any()
  assert right.any()


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_change_neither_value_nor_gradient(case, name):
  outputs, label = case
  outside = label == 255
  other = jax.tree.map(np.copy, outputs)
  rng = np.random.default_rng(2)
  for array in jax.tree.leaves(other):
    array[outside] = rng.normal(0, 50, array[outside].shape)
  grad = jax.value_and_grad(LOSSES[name])
  value, slopes = grad(outputs, jnp.array(label))
  other_value, other_slopes = grad(other, jnp.array(label))
  assert float(value) == float(other_value)
  assert value > 0
  for slope, other_slope in zip(jax.tree.leaves(slopes), jax.tree.leaves(other_slopes), strict=True):
    assert not np.asarray(slope)[outside].any()
    np.testing.assert_array_equal(slope, other_slope)


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_a_valid_pixel_gives_zero_loss_and_gradient(case, name):
  outputs, label = case
  value, slopes = jax.value_and_grad(LOSSES[name])(outputs, jnp.full(label.shape, 255, jnp.uint8))
  assert float(value) == 0
  assert all(not np.asarray(slope).any() for slope in jax.tree.leaves(slopes))


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_give_finite_losses_and_gradients(case, name):
  outputs, label = case
  outputs = jax.tree.map(lambda x: 1e3 * x, outputs)
  value, slopes = jax.value_and_grad(LOSSES[name])(outputs, jnp.array(label))
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((value, slopes)))


def error_loss(outputs, label, w1, w2, w3, w3_min, rho):
  """Eq. 2, pixel by pixel."""
  p = softmax(outputs.semantic.astype(float))
  wrong = p.argmax(-1) != label
  total = 0.0
  for image in range(B):
    mine = [i for i in pixels(label) if i[0] == image]
    errors = sum(wrong[i] for i in mine)
    correct = w3
    if correct is None:
      correct = min(1.0, max(w3_min, errors / max(len(mine) - errors, 1)))
    for i in mine:
      p_ep = sigmoid(float(outputs.error[i]))
      if wrong[i]:
        total -= (w2 if p[i].max() > rho else w1) * np.log(p_ep)
      else:
        total -= correct * np.log(1 - p_ep)
  return total / len(pixels(label))


@pytest.mark.parametrize(
  "fields",
  [
    {},
    {"rho": 0.7},
    {"w1": 0.5, "w2": 4.0, "rho": 0.9},
    {"w3": 0.04},
    {"w3_min": 0.9},
  ],
)
def test_the_error_loss_is_equation_2(case, fields):
  outputs, label = case
  every = {"w1": 1.0, "w2": 1.5, "w3": None, "w3_min": 0.001, "rho": 0.95} | fields
  got = ErrorLoss(**fields)(outputs, jnp.array(label))
  np.testing.assert_allclose(got, error_loss(outputs, label, **every), rtol=1e-5)


def test_w3_is_each_image_s_own_ratio_within_its_bounds():
  semantic = np.zeros((3, 1, 100, 2), np.float32)
  semantic[..., 0] = 1
  label = np.zeros((3, 1, 100), np.uint8)
  label[0, 0, :20] = 1
  label[1, 0, :90] = 1
  weights = np.asarray(ErrorLoss(w3_min=0.01).weights(jnp.array(semantic), jnp.array(label)))
  np.testing.assert_allclose(weights[:, 0, -1], [0.25, 1.0, 0.01], rtol=1e-6)


def detail_loss(outputs, label, weights, t, k, max_probability):
  """Eq. 3 and its soft and unweighted forms, pixel by pixel."""
  p_sb = softmax(outputs.semantic.astype(float))
  total = norm = 0.0
  for i in pixels(label):
    p_ep = 1 - p_sb[i].max() if max_probability else sigmoid(float(outputs.error[i]))
    weight = {"mask": float(p_ep > t), "soft": 1 + k * p_ep, "all": 1.0}[weights]
    total -= weight * np.log(softmax(outputs.detail[i].astype(float))[label[i]])
    norm += weight
  return total / max(norm, 1.0)


@pytest.mark.parametrize("weights", ["mask", "soft", "all"])
@pytest.mark.parametrize("max_probability", [False, True])
@pytest.mark.parametrize(("t", "k"), [(0.7, 4.0), (0.2, 1.5)])
def test_the_detail_loss_is_equation_3(case, weights, max_probability, t, k):
  outputs, label = case
  fields = {"weights": weights, "t": t, "k": k, "max_probability": max_probability}
  got = DetailLoss(**fields)(outputs, jnp.array(label))
  np.testing.assert_allclose(got, detail_loss(outputs, label, **fields), rtol=1e-5)


@pytest.mark.parametrize("weights", ["mask", "soft", "all"])
def test_class_weights_multiply_the_detail_loss(case, weights):
  outputs, label = case
  by_class = (0.5, 2.0, *[1.0] * (outputs.semantic.shape[-1] - 2))
  got = DetailLoss(weights, t=0.3, class_weights=by_class)(outputs, jnp.array(label))
  pixel = np.asarray(pixel_cross_entropy(outputs.detail, jnp.array(label)))
  plain = np.asarray(DetailLoss(weights, t=0.3).pixel_weights(outputs, jnp.array(label), pixel))
  each = plain * np.array([*by_class, *[0.0] * (256 - len(by_class))])[label]
  np.testing.assert_allclose(got, (pixel * each).sum() / max(each.sum(), 1), rtol=1e-5)
  assert not np.isclose(got, DetailLoss(weights, t=0.3)(outputs, jnp.array(label)))


def test_class_weights_are_inverse_frequencies_at_power_one():
  shares = np.array([0.6, 0.3, 0.1, 0.0])
  got = np.array(class_weights(shares, 1.0))
  # A class that never occurs weighs as the rarest one does.
  np.testing.assert_allclose(got / got[1], [0.5, 1, 3, 3])
  for power in (0.0, 0.5, 1.0):
    np.testing.assert_allclose((np.array(class_weights(shares, power)) * shares).sum(), 1)
  np.testing.assert_allclose(class_weights(shares, 0.0), np.ones(4))
  assert class_weights(np.zeros(3), 1.0) == (1.0,) * 3


def test_the_jaccard_loss_is_one_minus_the_mean_soft_iou_of_the_classes_present(case):
  outputs, label = case
  label = np.where(label == 2, 255, label).astype(np.uint8)  # class 2 is not there: it has no IoU
  p = softmax(outputs.detail.astype(float))
  overlap, union = np.zeros(C), np.zeros(C)
  for i in pixels(label):
    own = np.eye(C)[label[i]]
    overlap += p[i] * own
    union += p[i] + own - p[i] * own
  want = 1 - (overlap / union)[[0, 1, 3]].mean()
  np.testing.assert_allclose(jaccard_loss(outputs.detail, jnp.array(label)), want, rtol=1e-5)
  without = DetailLoss("all")(outputs, jnp.array(label))
  got = DetailLoss("all", jaccard=0.5)(outputs, jnp.array(label))
  np.testing.assert_allclose(got, without + 0.5 * want, rtol=1e-5)


@pytest.mark.parametrize("loss", [SemanticLoss, DetailLoss])
def test_a_negative_weight_of_the_jaccard_loss_is_refused(loss):
  with pytest.raises(UserError, match="must be 0"):
    loss(jaccard=-1.0)


@pytest.mark.parametrize("loss", [SemanticLoss, DetailLoss])
def test_a_balance_beyond_median_frequency_is_refused(loss):
  with pytest.raises(UserError, match=r"between 0 \(off\) and 1"):
    loss(balance=1.5)


def test_without_an_error_branch_max_probability_stands_in(case):
  outputs, label = case
  alone = outputs.replace(error=None)
  got = DetailLoss("soft")(alone, jnp.array(label))
  np.testing.assert_allclose(got, detail_loss(outputs, label, "soft", 0.7, 4.0, True), rtol=1e-5)


def test_a_mask_that_selects_nothing_gives_loss_zero(case):
  outputs, label = case
  assert float(DetailLoss("mask", t=1.0)(outputs, jnp.array(label))) == 0


@pytest.mark.parametrize("weights", ["mask", "soft"])
@pytest.mark.parametrize("max_probability", [False, True])
def test_no_gradient_flows_through_the_weights(case, weights, max_probability):
  outputs, label = case
  loss = DetailLoss(weights, t=0.3, max_probability=max_probability)
  slopes = jax.grad(loss)(outputs, jnp.array(label))
  assert not np.asarray(slopes.error).any()
  assert not np.asarray(slopes.semantic).any()
  assert np.asarray(slopes.detail).any()


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_rank_mining_learns_from_the_largest_losses_of_each_image(case, share):
  outputs, label = case
  pixel = np.asarray(pixel_cross_entropy(outputs.detail, jnp.array(label)))
  chosen = []
  for losses, labels in zip(pixel, label, strict=True):
    ranked = np.sort(losses[labels != 255])[::-1]
    chosen.append(ranked[: int(np.ceil(share * len(ranked)))])
  got = DetailLoss("rank", share=share)(outputs, jnp.array(label))
  np.testing.assert_allclose(got, np.concatenate(chosen).mean(), rtol=1e-5)


@pytest.mark.parametrize("target", ["tcp", "tcp_normalised"])
def test_confidnet_s_loss_is_the_squared_distance_to_the_true_class_probability(case, target):
  outputs, label = case
  p, distances = softmax(outputs.semantic.astype(float)), []
  for i in pixels(label):
    truth = p[i][label[i]] / (p[i].max() if target == "tcp_normalised" else 1.0)
    distances.append((1 - sigmoid(float(outputs.error[i])) - truth) ** 2)
  np.testing.assert_allclose(
    ErrorLoss(target=target)(outputs, jnp.array(label)), np.mean(distances), rtol=1e-5
  )


def test_each_decoder_of_a_cascade_learns_from_the_pixels_that_reach_it(case):
  outputs, label = case
  reached = np.random.default_rng(0).random(label.shape) < 0.5
  stages = ((outputs.semantic, jnp.ones(label.shape, bool)), (outputs.detail, jnp.array(reached)))
  got = DetailLoss("cascade")(Outputs(outputs.semantic, None, None, stages=stages), jnp.array(label))
  valid = label != 255
  first = np.asarray(pixel_cross_entropy(outputs.semantic, jnp.array(label)))[valid].mean()
  second = np.asarray(pixel_cross_entropy(outputs.detail, jnp.array(label)))[valid & reached].mean()
  np.testing.assert_allclose(got, first + second, rtol=1e-5)
