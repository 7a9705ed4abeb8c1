"""Both forms of the fused loss against what the losses compute from full-size logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errseg_jax.kernels import Terms, body, dispatch, fused_sums
from errseg_jax.losses import DetailLoss, ErrorLoss
from errseg_jax.metrics.calibration import Calibration
from errseg_jax.pixel_losses import Confusion, Focal
from errseg_jax.structs import Outputs
from errseg_jax.train.step import error_rate

FORMS = ("banded", "pallas")
WEIGHTS = (0.5, 2.0, 1.0)


@pytest.fixture
def both(kit, confusion):
  """(loss, coarse, label) -> nothing, having compared both with the reference."""

  def compare(loss, coarse, label, form):
    matrix = confusion(coarse.semantic.shape[-1])
    want = kit.value_and_slopes(loss, coarse, label, matrix, fused=False)
    got = kit.value_and_slopes(loss, coarse.replace(kernels=form), label, matrix)
    assert want[0] > 0
    kit.assert_close(got, want)

  return compare


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
  ("num_classes", "low", "scale", "align_corners"),
  [(2, (3, 4), 4, False), (19, (3, 5), 4, True), (21, (2, 3), 3, False), (150, (2, 2), 2, True)],
)
def test_every_number_of_classes_and_both_grids(
  kit, both, monkeypatch, form, num_classes, low, scale, align_corners
):
  monkeypatch.setattr(body, "UNROLLED", 2)  # the interpreter's program of 19 classes in a row takes a minute
  coarse, label = kit.make_maps(num_classes, low, scale, align_corners)
  both(ErrorLoss(rho=0.5), coarse, label, form)
  both(DetailLoss("soft", jaccard=2.0), coarse, label, form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
  "fields",
  [
    {"weights": "mask", "t": 0.4},
    {"weights": "all", "class_weights": WEIGHTS, "jaccard": 1.0},
    {"weights": "soft", "k": 1.5, "max_probability": True},
    {"weights": "soft", "calibration": Calibration(2.0, -0.5)},
    {"weights": "mask", "t": 0.4, "pixel": Confusion()},
    {"weights": "all", "pixel": Confusion(strength=2.0, weights="row", diag="confusion")},
  ],
  ids=["mask", "class_weights", "max_probability", "calibration", "confusion", "confusion_row"],
)
def test_every_detail_loss(kit, both, form, fields):
  coarse, label = kit.make_maps(residual="calibration" in fields)
  both(DetailLoss(**fields), coarse, label, form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("prior", ["none", "msp", "detail"])
def test_every_prior_of_the_error_branch(kit, both, form, prior):
  weights = WEIGHTS if prior == "detail" else ()
  coarse, label = kit.make_maps(prior=prior, detail_weights=weights, residual=True, trained=("error",))
  both(ErrorLoss(w1=0.5, w2=4.0, rho=0.7), coarse, label, form)
  both(ErrorLoss(w3=0.04), coarse, label, form)


def test_calibration_by_knots_goes_by_bands(kit, both):
  coarse, label = kit.make_maps()
  loss = DetailLoss("soft", calibration=Calibration(knots=((-1.0, -2.0), (0.0, 0.5), (2.0, 3.0))))
  both(loss, coarse, label, "banded")
  assert "knots" in dispatch.loss_layout(coarse, Terms(detail=loss.terms()), "interpret")


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_maps_are_computed_in_float32(kit, both, form):
  coarse, label = kit.make_maps()
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), coarse)
  same = jax.tree.map(lambda x: x.astype(jnp.float32), half)
  loss = DetailLoss("soft", jaccard=1.0)
  want = kit.value_and_slopes(loss, same, label, fused=False)
  got = kit.value_and_slopes(loss, half.replace(kernels=form), label)
  assert got[1]["detail"].dtype == jnp.bfloat16
  kit.assert_close(got, want, slope=5e-3)


@pytest.mark.parametrize("form", FORMS)
def test_ignored_images_and_cells_cost_nothing(kit, both, form):
  coarse, label = kit.make_maps(low=(4, 5))
  label = label.at[0].set(255).at[1, :8].set(255)
  for loss in (DetailLoss("soft", jaccard=1.0), ErrorLoss()):
    both(loss, coarse, label, form)
    value, slopes = kit.value_and_slopes(loss, coarse.replace(kernels=form), jnp.full_like(label, 255))
    assert float(value) == 0
    assert all(not np.asarray(x).any() for x in jax.tree.leaves(slopes))


@pytest.mark.parametrize("form", FORMS)
def test_extreme_logits_give_finite_losses_and_gradients(kit, form):
  coarse, label = kit.make_maps()
  coarse = jax.tree.map(lambda x: 1e3 * x, coarse).replace(kernels=form)
  matrix = jnp.eye(3) * 0.5 + 0.1
  for loss in (DetailLoss("soft", jaccard=1.0, pixel=Confusion()), ErrorLoss()):
    value, slopes = kit.value_and_slopes(loss, coarse, label, matrix)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((value, slopes)))


@pytest.mark.parametrize("form", FORMS)
def test_a_row_of_nan_logits_reaches_the_loss(kit, form):
  coarse, label = kit.make_maps()
  coarse = coarse.replace(
    detail=coarse.detail.at[0, 1].set(np.nan), error=coarse.error.at[0, 1].set(np.nan), kernels=form
  )
  for loss in (DetailLoss("all", jaccard=1.0), ErrorLoss()):
    assert np.isnan(kit.value_and_slopes(loss, coarse, label)[0])


def test_the_comparison_rejects_planted_nan(kit):
  coarse, label = kit.make_maps()
  want = kit.value_and_slopes(DetailLoss("all"), coarse, label, fused=False)
  with pytest.raises(AssertionError):
    kit.assert_close((np.nan, want[1]), want)
  planted = {name: np.asarray(x).copy() for name, x in want[1].items()}
  planted["detail"][0, 1] = np.nan
  for pair in (((want[0], planted), want), (want, (want[0], planted)), ((want[0], planted),) * 2):
    with pytest.raises(AssertionError):
      kit.assert_close(*pair)


@pytest.mark.parametrize("form", FORMS)
def test_the_error_rate_is_that_of_full_size_labels(kit, form):
  coarse, label = kit.make_maps(kernels=form)
  want = error_rate(kit.full_size(coarse), label)
  np.testing.assert_allclose(error_rate(Outputs(None, coarse=coarse), label), want, rtol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_a_residual_gives_the_semantic_logits_the_gradient_of_the_detail_logits(kit, form):
  coarse, label = kit.make_maps(residual=True, trained=("segmenter", "detail"), kernels=form)
  loss = DetailLoss("all")

  def slope(fused):
    def function(semantic):
      own = coarse.replace(semantic=semantic)
      return loss(Outputs(None, coarse=own) if fused else kit.full_size(own), label)

    return jax.jit(jax.value_and_grad(function))(coarse.semantic)

  got, want = ((value, {"semantic": x}) for value, x in (slope(True), slope(False)))
  assert np.asarray(want[1]["semantic"]).any()
  kit.assert_close(got, want)


def test_the_error_branch_s_gradient_makes_no_class_map_again(kit):
  """What it wants of them is a number of each pixel, kept; the branch's own map alone is interpolated once more."""
  coarse, label = kit.make_maps(prior="detail", residual=True, trained=("error",), kernels="banded")

  def loss(error):
    return ErrorLoss()(Outputs(None, coarse=coarse.replace(error=error)), label)

  there, both = (str(jax.make_jaxpr(f)(coarse.error)).count("dot_general[") for f in (loss, jax.grad(loss)))
  assert there == 2 * 3  # rows and columns of three maps
  assert both == there + 2 * 2  # of the error map: again, and back


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("devices", "batch"), [(2, 4), (4, 4), (4, 3)])
def test_many_devices_come_to_the_same_as_one(kit, form, devices, batch):
  """A batch that the devices do not divide is each device's own work."""
  coarse, label = kit.make_maps(prior="msp", trained=("error",), batch=batch)
  one, many = (coarse.replace(kernels=form, num_devices=n) for n in (1, devices))
  kit.assert_close(
    kit.value_and_slopes(ErrorLoss(), many, label), kit.value_and_slopes(ErrorLoss(), one, label), 1e-6, 1e-6
  )


@pytest.mark.parametrize("loss", [DetailLoss("rank"), DetailLoss("all", pixel=Focal())])
def test_what_no_kernel_adds_up_is_the_reference_s(kit, loss):
  coarse, label = kit.make_maps()
  assert fused_sums(coarse, label, Terms(detail=loss.terms())) is None
  outputs = kit.full_size(coarse)
  assert loss(outputs.replace(coarse=coarse), label) == loss(outputs, label)
  assert fused_sums(None, label, Terms(wrong=True)) is None
