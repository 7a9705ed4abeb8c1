import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from scipy import special

from errseg_jax.inference import choose as choosing
from errseg_jax.inference import image_log
from errseg_jax.inference.choice import Choice
from errseg_jax.inference.evaluator import Evaluator
from errseg_jax.inference.statistics import make_counter, threshold_counts
from errseg_jax.metrics.segmentation import confusion_matrix, segmentation_scores
from errseg_jax.models.error_branch import unweighted
from errseg_jax.models.fusion import FUSIONS
from errseg_jax.sharding import make_mesh
from errseg_jax.structs import Outputs

THRESHOLDS = (0.1, 0.5, 0.9)
C, SIZE = 3, 32


@struct.dataclass
class Fake:
  """A "network" whose outputs are written into the image: what it says is known without running one."""

  quality: float = struct.field(pytree_node=False, default=1.0)
  detail_weights: tuple = struct.field(pytree_node=False, default=())
  early_exit: None = struct.field(pytree_node=False, default=None)
  sparse: None = struct.field(pytree_node=False, default=None)
  views: None = struct.field(pytree_node=False, default=None)
  tiles: None = struct.field(pytree_node=False, default=None)

  def apply(self, variables, image, wanted=("error", "detail"), **kwargs):
    label = image[..., 0].astype(jnp.int32)
    noise = image[..., 1:].astype(jnp.float32) / 255
    semantic = 2 * jax.nn.one_hot((label + (noise[..., 0] < 0.3)) % C, C)
    detail = 3 * jax.nn.one_hot((label + (noise[..., 1] > self.quality)) % C, C)
    error = jnp.where(noise[..., 0] < 0.35, 1.0, -1.0)
    kept = [x if name in wanted else None for name, x in (("error", error), ("detail", detail))]
    return Outputs(semantic, *kept)


class Source:
  """Labels and noise in the image's channels; sizes differ."""

  def __init__(self, count, seed=0, ignored=()):
    rng = np.random.default_rng(seed)
    self.samples = []
    for i in range(count):
      height, width = SIZE - 3 * (i % 2), SIZE
      image = rng.integers(0, 256, (height, width, 3), np.uint8)
      image[..., 0] = rng.integers(0, C, (height, width))
      label = image[..., 0].copy()
      label[rng.random(label.shape) < 0.1] = 255
      if i in ignored:
        label[:] = 255
      self.samples.append({"image": image, "label": label, "name": f"{i}"})
    self.names = tuple(s["name"] for s in self.samples)

  def __len__(self):
    return len(self.samples)

  def __getitem__(self, index):
    return self.samples[index]


def evaluator(batch_size=4, devices=1):
  padding = {"size_multiple": 8, "size_remainder": 0, "pad_value": (1, 2, 3)}
  return Evaluator(make_mesh(devices), batch_size=batch_size, threads=1, **padding)


def choose(model, fusions=FUSIONS, calibration="platt", **options):
  return choosing.choose(
    evaluator(),
    model,
    {},
    Source(6),
    calibration=calibration,
    fusions=fusions,
    thresholds=THRESHOLDS,
    on="6 images",
    **options,
  )


@pytest.mark.parametrize("quality", [0.0, 0.5, 0.75, 1.0])
def test_what_is_chosen_is_never_worse_than_semantic(quality):
  choice = choose(Fake(quality))
  name = choice.fusion if choice.fusion != "mask" else f"mask@{choice.threshold:g}"
  gap = max(choice.candidates.values()) - choice.candidates[name]
  assert 0 <= gap <= choice.standard_errors[name]
  assert choice.candidates[name] >= choice.candidates["semantic"]
  alone = {"semantic", "soft", "gate", "mean", "detail"}
  assert set(choice.candidates) == {*alone, *(f"mask@{t:g}" for t in THRESHOLDS)}
  # A detail branch that is always wrong must not be let in; one that is always right must.
  assert (choice.fusion == "semantic") == (quality == 0)


def test_a_tie_goes_to_semantic():
  """A detail branch that repeats the frozen labels gains nothing."""

  class Echo(Fake):
    def apply(self, *args, **kwargs):
      outputs = super().apply(*args, **kwargs)
      return outputs.replace(detail=None if outputs.detail is None else outputs.semantic)

  assert choose(Echo()).fusion == "semantic"


def test_the_standard_error_is_the_jackknife_s():
  rng = np.random.default_rng(0)
  gaps = rng.normal(2.0, 1.0, 8)
  # For a mean the delete-one jackknife is the textbook standard error.
  without = [{"a": 10.0, "b": 10.0 - np.delete(gaps, k).mean()} for k in range(8)]
  got = choosing.standard_errors({"a": 10.0, "b": 8.0}, without)
  assert got == pytest.approx({"a": 0.0, "b": gaps.std(ddof=1) / np.sqrt(8)})


@pytest.mark.parametrize(
  ("error", "want"), [(0.0, "soft"), (0.15, "mask@0.1"), (0.25, "mask@0.5"), (3.0, "semantic")]
)
def test_of_those_within_a_standard_error_the_most_cautious_is_taken(error, want):
  scores = {"semantic": 48.0, "mask@0.1": 49.9, "mask@0.5": 49.8, "soft": 50.0, "gate": 49.99}
  assert choosing.most_cautious(scores, dict.fromkeys(scores, error)) == want


def test_one_candidate_alone_is_taken_and_raw_p_ep_stays_raw():
  choice = choose(Fake(0.0), fusions=("mask",), calibration="none")
  assert choice.fusion == "mask"
  assert (choice.scale, choice.offset) == (1.0, 0.0)


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_calibration_is_fitted_on_the_other_half_and_improves_ece(kind):
  choice = choose(Fake(), fusions=("soft",), calibration=kind)
  assert bool(choice.knots) == (kind == "isotonic")
  assert choice.calibration["after"] < choice.calibration["before"]


@pytest.mark.parametrize("wanted", [("error", "detail"), ("detail",)])
def test_the_temperature_is_fitted_with_and_without_an_error_branch(wanted):
  choice = choose(Fake(), wanted=wanted)
  # The labels have logit 2, the others 0, and 70 % are right: exp(2 / T) / (exp(2 / T) + 2) = 0.7.
  assert choice.temperature == pytest.approx(2 / np.log(2 * 0.7 / 0.3), rel=0.1)
  assert choice.arrays()["temperature"] == pytest.approx(choice.temperature)


class Tilted(Fake):
  """Right detail labels, moved by the class weights: where those are taken out, they are all right again."""

  def apply(self, *args, **kwargs):
    outputs = super().apply(*args, **kwargs)
    if outputs.detail is None:
      return outputs
    return outputs.replace(detail=unweighted(outputs.detail, WEIGHTS, -1.0))


WEIGHTS = (1.0, 1.0, 100.0)


def test_class_weights_are_taken_out_as_far_as_the_labels_gain():
  tilted = choose(Tilted(1.0, WEIGHTS), fusions=("semantic", "detail"))
  assert tilted.unweight == 0.5  # log 100 / 2 < 3, the margin of the right label
  assert tilted.candidates["detail"] == pytest.approx(100)
  assert choose(Fake(1.0, WEIGHTS), fusions=("semantic", "detail")).unweight == 0
  assert choose(Fake(1.0)).unweight == 0


class Halves(Source):
  """The detail labels are right on the first half of the images and wrong on the second."""

  def __init__(self, count):
    super().__init__(count)
    for i, sample in enumerate(self.samples):
      noise = sample["image"][..., 2]
      noise[:] = 0 if i < count // 2 else 255


def both_ways(source):
  options = {"calibration": "platt", "fusions": FUSIONS, "thresholds": THRESHOLDS, "on": "each other"}
  return choosing.choose_both_ways(evaluator(), Fake(0.5), {}, source, **options)


def test_both_ways_each_half_gets_what_the_other_chose():
  choice = both_ways(Halves(8))
  first, second = choice.halves
  # The second half taught the first that the detail branch is useless; the first taught the second to trust it.
  assert first.fusion == "semantic"
  assert second.fusion != "semantic"
  assert max(first.candidates.values()) == first.candidates["semantic"] < max(second.candidates.values())


def test_the_choice_survives_its_file(tmp_path):
  choice = both_ways(Halves(8))
  choice.save(tmp_path)
  assert Choice.load(tmp_path) == choice
  choice = choose(Fake(0.75), fusions=("soft",), calibration="isotonic")
  choice.save(tmp_path)
  assert Choice.load(tmp_path) == choice


def outputs_and_label(seed=0):
  rng = np.random.default_rng(seed)
  semantic, detail = (jnp.array(rng.normal(size=(2, 9, 8, C)), jnp.float32) for _ in range(2))
  error = jnp.array(rng.normal(0, 3, (2, 9, 8)), jnp.float32)
  label = rng.integers(0, C, (2, 9, 8)).astype(np.uint8)
  label[:, :2] = 255
  return Outputs(semantic, error, detail), jnp.array(label)


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_the_mask_s_confusion_follows_from_the_threshold_counts(scale):
  outputs, label = outputs_and_label()
  choice = Choice(scale=scale, offset=0.2).arrays()
  table = np.asarray(threshold_counts(outputs, label, THRESHOLDS, choice))
  assert table.shape == (len(THRESHOLDS) + 1, 2, C, C)
  assert table[:, 0].sum() == table[:, 1].sum() == (label != 255).sum()
  p = special.expit(scale * np.asarray(outputs.error) + 0.2)
  for k, t in enumerate(THRESHOLDS):
    fused = np.where(p > t, outputs.detail.argmax(-1), outputs.semantic.argmax(-1))
    want = confusion_matrix(label, jnp.array(fused), C)
    np.testing.assert_array_equal(choosing.mask_confusion(table, k), want)


def totals(source, batch_size, devices=1, model=None):
  counter = make_counter(
    model or Fake(0.75),
    wanted=("error", "detail"),
    fusions=FUSIONS,
    thresholds=THRESHOLDS,
    fusion="soft",
  )
  choice = Choice("soft", scale=0.8, offset=0.1, gate=(0.1,) * 6)
  return evaluator(batch_size, devices).run(counter, {}, source, choice, per_image=True)


def assert_same(a, b):
  assert a.counts.keys() == b.counts.keys()
  for key, value in a.counts.items():
    np.testing.assert_array_equal(value, b.counts[key], err_msg=key)
  assert a.images == b.images
  for reason in image_log.REASONS:
    mine, theirs = a.extremes.first(reason), b.extremes.first(reason)
    assert [scores[:3] for scores in mine] == [scores[:3] for scores in theirs]
  assert a.moments.keys() == b.moments.keys() == {"accuracy", "mIoU"}
  for key, value in a.moments.items():
    np.testing.assert_allclose(value, b.moments[key], rtol=1e-5)
  np.testing.assert_allclose(sorted(a.points.points), sorted(b.points.points), rtol=1e-5)
  assert a.image_miou == pytest.approx(b.image_miou)
  for key, value in a.image_scores.items():
    np.testing.assert_allclose(value, b.image_scores[key])


@pytest.mark.parametrize(("batch_size", "devices"), [(1, 1), (3, 1), (7, 1), (5, 8)])
def test_totals_depend_on_neither_batch_size_nor_devices(batch_size, devices):
  source = Source(7)
  assert_same(totals(source, 4), totals(source, batch_size, devices))


def confusion_of(label, predicted):
  table = np.zeros((C, C), int)
  np.add.at(table, (label[label != 255], predicted[label != 255]), 1)
  return table


def test_totals_are_those_of_a_direct_computation():
  """Padding and the rows that fill up a batch count nothing."""
  source = Source(5)
  got = totals(source, 4)
  confusion, miou, expected = np.zeros((C, C), int), 0.0, []
  for sample in source.samples:
    outputs = Fake(0.75).apply({}, jnp.array(sample["image"][None]))
    labels, valid = np.asarray(outputs.semantic[0]).argmax(-1), sample["label"] != 255
    confusion += confusion_of(sample["label"], labels)
    right = 1 - special.expit(0.8 * np.asarray(outputs.error[0]) + 0.1)
    shares = [right[valid & (labels == c)].mean() for c in range(C)]
    expected.append((100 * right[valid].mean(), np.mean([100 * r / (2 - r) for r in shares])))
    p = special.expit(0.8 * np.asarray(outputs.error) + 0.1)[..., None]
    detail, semantic = (special.softmax(x, -1) for x in (outputs.detail, outputs.semantic))
    fused = (p * detail + (1 - p) * semantic)[0].argmax(-1)
    miou += segmentation_scores(confusion_of(sample["label"], fused), list("abc"))["mIoU"]
  np.testing.assert_array_equal(got.counts["confusion/semantic"], confusion)
  assert got.counts["histogram/error"].sum() == confusion.sum()
  assert got.counts["by_threshold"][:, 0].sum() == confusion.sum()
  assert got.image_miou == pytest.approx(miou)
  assert got.images == 5
  sums = [got.moments[name][0] for name in ("accuracy", "mIoU")]
  np.testing.assert_allclose(sums, np.sum(expected, 0), rtol=1e-5)
  np.testing.assert_allclose([x for x, _ in got.points.points], [x for x, _ in expected], rtol=1e-5)


def test_points_of_many_images_are_thinned_evenly(monkeypatch):
  monkeypatch.setattr(image_log, "MAX_POINTS", 10)
  thinned = image_log.Thinned()
  for i in range(101):
    thinned.add((float(i), 0.0))
    assert len(thinned.points) <= 10
  assert {b[0] - a[0] for a, b in itertools.pairwise(thinned.points)} == {thinned.stride}
  assert thinned.points[-1][0] >= 101 - thinned.stride


def test_an_all_ignored_image_counts_nothing():
  whole, part = Source(4, ignored=(2,)), Source(4)
  part.samples = [s for i, s in enumerate(part.samples) if i != 2]
  # The random numbers of later images are the same in both.
  assert_same(totals(whole, 2), totals(part, 2))


@pytest.mark.parametrize(("rho", "hard"), [(0.5, True), (0.95, False)])
def test_errors_are_hard_above_rho(rho, hard):
  counter = make_counter(Fake(0.75), wanted=("error",), rho=rho)
  counts = evaluator().run(counter, {}, Source(3), Choice()).counts
  # Every label of the fake has max probability e^2 / (e^2 + 2) = 0.79.
  errors = counts["histogram/error"][1].sum()
  assert counts["hard"].sum() == counts["mask"][:, 2].sum() == (errors if hard else 0)
  assert counts["mask"][:, 1].sum() == errors
