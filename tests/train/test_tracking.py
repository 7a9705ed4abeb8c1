"""What a run leaves on TensorBoard, read back from its events, and on Weights & Biases, by a package that is not it."""

import io
import json
import pathlib
import struct
import sys
import types

import numpy as np
import pytest
from PIL import Image
from scipy import special
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from errseg_jax import assemble, processes
from errseg_jax.assemble import with_defaults
from errseg_jax.errors import UserError
from errseg_jax.inference.choice import Choice
from errseg_jax.inference.evaluator import make_evaluator
from errseg_jax.metrics.curves import flagged_counts
from errseg_jax.metrics.errors import BIN_CENTRES
from errseg_jax.models.error_aware import infer_coarse
from errseg_jax.sharding import make_mesh, place
from errseg_jax.train import pictures
from errseg_jax.train.pictures import GAP, GREY, SIDE, Album, coloured, heat, strip
from errseg_jax.train.restore import load
from errseg_jax.train.score import DRAWN, StageScore
from errseg_jax.train.trainer import Trainer
from errseg_jax.train.workdir import flat, load_config
from errseg_jax.train.writers import make_writer, read_metrics

PANEL = 48  # width of the tiny images


def events(workdir: pathlib.Path):
  """(step, value) of every summary in the workdir's event files, in order; of the whole folder below it."""
  for path in sorted(workdir.rglob("*tfevents*")):
    data = path.read_bytes()
    while data:
      (length,) = struct.unpack("<Q", data[:8])
      event = Event.FromString(data[12 : 12 + length])
      data = data[16 + length :]
      yield from ((event.step, value) for value in event.summary.value)


class FakeWandb(types.ModuleType):
  """The part of wandb that is used."""

  class Error(Exception):
    pass

  class Image:
    def __init__(self, array):
      self.array = array

  def __init__(self):
    super().__init__("wandb")
    self.started, self.logged, self.finished, self.refusal = [], [], 0, ""

  def init(self, **options):
    if self.refusal:
      raise self.Error(self.refusal)
    self.started.append(options)
    self.summary = {}
    return types.SimpleNamespace(
      log=lambda values, step: self.logged.append((step, values)), summary=self.summary, finish=self.finish
    )

  def finish(self):
    self.finished += 1


@pytest.fixture(scope="module")
def run(tiny_config, tmp_path_factory):
  """(workdir, config, fake wandb) of a finished run."""
  workdir, fake = tmp_path_factory.mktemp("tracked") / "run", FakeWandb()
  config = tiny_config(
    error_branch__prior="detail",
    order=("semantic", "detail", "error"),
    train__log_images=2,
    train__wandb="project",
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(sys.modules, "wandb", fake)
    Trainer(with_defaults(config), workdir).run()
  return workdir, load_config(workdir), fake


def test_images_are_drawn_whenever_the_choose_split_is_scored(run):
  workdir, config, _ = run
  found = [(step, value.tag, value.image) for step, value in events(workdir) if value.HasField("image")]
  names = ("choose_0", "choose_3")  # spread over the split
  stages = {"semantic": 0, "detail": 4, "error": 8}
  wanted = [
    (at + step, f"{stage}/images/{n}") for stage, at in stages.items() for step in (2, 4) for n in names
  ]
  assert sorted((step, tag) for step, tag, _ in found) == sorted(wanted)
  source = assemble.splits(config).sources(assemble.dataset(config))["choose"]
  palette = assemble.dataset(config).info.palette
  for _, tag, image in found:
    panels = 4 if tag.startswith("semantic") else 5
    picture = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)).convert("RGB"), np.int64)
    assert picture.shape == (image.height, image.width, 3) == (32, panels * (PANEL + GAP) - GAP, 3)
    sample = source[int(tag[-1])]
    first, second = picture[:, :PANEL], picture[:, PANEL + GAP : 2 * PANEL + GAP]
    grey = [x.mean(-1).ravel() for x in (first, sample["image"])]  # JPEG spares colours of noise
    assert np.corrcoef(grey)[0, 1] > 0.9
    assert abs(second - coloured(sample["label"], palette)).mean() < 8


def test_the_curve_of_p_ep_is_that_of_the_histogram(run):
  workdir, config, _ = run
  source = assemble.splits(config).sources(assemble.dataset(config))["choose"]
  found = [(step, v) for step, v in events(workdir) if v.metadata.plugin_data.plugin_name == "pr_curves"]
  assert [(step, v.tag) for step, v in found] == [(10, "error/choose/P_ep"), (12, "error/choose/P_ep")]
  for _, value in found:
    tp, fp, tn, fn, precision, recall = np.array(value.tensor.float_val).reshape(6, 127)
    valid = sum((sample["label"] != 255).sum() for sample in source)
    np.testing.assert_array_equal(tp + fp + tn + fn, valid)
    assert len(set(tp + fn)) == 1
    np.testing.assert_allclose(recall, tp / (tp[0] + fn[0]), rtol=1e-6)
    np.testing.assert_allclose(precision, tp / np.maximum(tp + fp, 1), rtol=1e-6)
    assert tn[0] == fn[0] == 0
    assert 0 < tp[60] < tp[0]


def test_counts_at_thresholds():
  rng = np.random.default_rng(0)
  hist = rng.integers(0, 5, (2, len(BIN_CENTRES)))
  thresholds, p = np.linspace(0, 1, 11), special.expit(BIN_CENTRES)
  tp, fp, tn, fn = flagged_counts(hist, thresholds)
  for k, t in enumerate(thresholds):
    correct, wrong = hist
    expected = wrong[p >= t].sum(), correct[p >= t].sum(), correct[p < t].sum(), wrong[p < t].sum()
    assert (tp[k], fp[k], tn[k], fn[k]) == expected


def test_settings_and_final_scores_are_in_the_runs_own_events(run):
  workdir, config, _ = run
  files = list(workdir.rglob("*tfevents*"))
  assert [path.parent for path in files] == [workdir]
  values = [v for _, v in events(workdir)]
  scalars = {v.tag: v.simple_value for v in values if v.HasField("simple_value")}
  parts = {
    v.tag: HParamsPluginData.FromString(v.metadata.plugin_data.content)
    for v in values
    if v.metadata.plugin_data.plugin_name == "hparams"
  }
  own = parts["_hparams_/session_start_info"].session_start_info.hparams
  assert own.keys() == flat(config).keys()
  assert own["stages.error.optimizer.learning_rate"].number_value == pytest.approx(3e-3)
  assert own["detail_branch.residual"].bool_value is True
  assert json.loads(own["order"].string_value) == ["semantic", "detail", "error"]
  metrics = {info.name.tag for info in parts["_hparams_/experiment"].experiment.metric_infos}
  assert metrics <= scalars.keys()
  assert {
    "chosen/mIoU",
    "chosen/ECE",
    "semantic/choose/semantic/mIoU",
    "error/choose/error/AUPR_error",
  } <= metrics
  choice = Choice.load(workdir)
  assert scalars["chosen/network_mIoU"] == pytest.approx(choice.candidates["semantic"])
  assert scalars["chosen/mIoU"] in [pytest.approx(score) for score in choice.candidates.values()]


def test_what_was_chosen_is_told_by_its_own_score():
  scores = {"candidates": {"mask@0.3": 1.0, "mask@0.5": 2.0, "soft": 3.0}, "calibration": {"after": None}}
  assert Choice(fusion="mask", threshold=0.5, **scores).scores() == {"mIoU": 2.0}
  assert Choice(fusion="soft", **scores).scores() == {"mIoU": 3.0}


def test_scalars_and_images_go_to_wandb_too(run):
  workdir, config, fake = run
  (started,) = fake.started
  assert (started["project"], started["name"], started["dir"]) == ("project", "run", str(workdir))
  assert started["config"] == flat(config)
  assert fake.finished == 1
  offsets = {"semantic": 0, "detail": 4, "error": 8}
  rows = read_metrics(workdir / "metrics.jsonl")
  wanted = [
    (
      offsets[row["stage"]] + row["step"],
      {f"{row['stage']}/{k}": v for k, v in row.items() if k not in ("stage", "step")},
    )
    for row in rows
  ]
  assert [entry for entry in fake.logged if "images" not in next(iter(entry[1]))] == wanted
  drawn = [(step, values) for step, values in fake.logged if "images" in next(iter(values))]
  assert [step for step, _ in drawn] == [2, 4, 6, 8, 10, 12]
  assert all(
    v.array.dtype == np.uint8 and v.array.shape[0] == 32 for _, values in drawn for v in values.values()
  )
  assert fake.summary["chosen/mIoU"] == Choice.load(workdir).scores()["mIoU"]


def test_a_run_that_goes_on_is_the_same_on_wandb(run, monkeypatch):
  workdir, config, fake = run
  monkeypatch.setitem(sys.modules, "wandb", fake)
  first = fake.started[0]["id"]
  writer = make_writer(workdir, config)
  writer.close()
  writer.close()
  assert fake.started.pop()["id"] == first
  assert first
  assert fake.finished == 2
  fake.finished = 1


def test_without_wandb_it_is_told_before_anything_is_made(tiny_config, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)
  config = with_defaults(tiny_config(train__wandb="project"))
  with pytest.raises(UserError, match=r"pip install errseg-jax\[wandb\]"):
    Trainer(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_wandb_that_refuses_is_one_line(tiny_config, tmp_path, monkeypatch):
  fake = FakeWandb()
  fake.refusal = "no key"
  monkeypatch.setitem(sys.modules, "wandb", fake)
  with pytest.raises(UserError, match=r"no key.*WANDB_MODE=offline"):
    make_writer(tmp_path, tiny_config(train__wandb="project"))


def test_wandb_is_left_alone_unless_asked_for(tiny_config, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)
  config = with_defaults(tiny_config())
  assert config.train.wandb == ""
  Trainer(config, tmp_path / "run")
  assert make_writer(tmp_path, config).wandb is None


def test_other_processes_draw_and_write_nothing(run, tiny_config, tmp_path, monkeypatch):
  fake = FakeWandb()
  monkeypatch.setitem(sys.modules, "wandb", fake)
  monkeypatch.setattr(processes, "first", lambda: False)
  writer = make_writer(tmp_path, tiny_config(train__wandb="project"))
  writer.write_run({}, 0, {"mIoU": 1.0})
  writer.close()
  assert not fake.started
  assert list(tmp_path.iterdir()) == []
  trainer = Trainer(load_config(run[0]), run[0])
  assert trainer.make_score(trainer.stages[0], {}).album.draw({}) == {}


class TwoSizes:
  """Samples of two sizes."""

  def __len__(self):
    return 5

  def __getitem__(self, i):
    size = (32, 48) if i % 2 else (64, 32)
    image = np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8)
    return {"name": f"s{i}", "image": image, "label": np.full(size, i % 3, np.uint8)}


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 2), (2, 4)])
def test_one_program_is_compiled_and_shows_what_predict_says(trained, devices, batch_size, monkeypatch):
  traced = []
  monkeypatch.setattr(pictures, "infer_coarse", lambda *a: traced.append(1) or infer_coarse(*a))
  config, network = load_config(trained), load(trained)
  config.loader.eval_batch_size = batch_size
  evaluator = make_evaluator(config, make_mesh(devices))
  variables, source = place(network.variables, evaluator.mesh), TwoSizes()
  palette = network.info.palette
  album = Album(evaluator, network.model, source, 3, ("error", "detail"), palette)
  strips = album.draw(variables)
  album.draw(variables)
  assert len(traced) == 1
  assert sorted(strips) == ["s0", "s2", "s4"]
  for name, picture in strips.items():
    sample = source[int(name[1])]
    said = network.predict(sample["image"])
    assert picture.shape == (64, 5 * (32 + GAP) - GAP, 3)
    image, truth, labels, error, _ = (picture[:, i * (32 + GAP) : i * (32 + GAP) + 32] for i in range(5))
    np.testing.assert_array_equal(image, sample["image"])
    np.testing.assert_array_equal(truth, coloured(sample["label"], palette))
    assert (labels == coloured(said.semantic_labels, palette)).all(-1).mean() > 0.99
    # P_ep is calibrated once training has ended: only its order is the same.
    assert np.corrcoef(error.sum(-1).ravel(), said.error_probability.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(
  ("branches", "fusion", "panels"),
  [((), "semantic", 4), (("detail",), "detail", 5), (("error",), "semantic", 4)],
)
def test_what_a_stage_has_not_got_is_not_shown(trained, branches, fusion, panels):
  network = load(trained)
  evaluator = make_evaluator(load_config(trained), make_mesh(1))
  album = Album(evaluator, network.model, TwoSizes(), 1, branches, network.info.palette)
  assert album.fusion == fusion
  (picture,) = album.draw(network.variables).values()
  assert picture.shape[1] == panels * (32 + GAP) - GAP


def test_no_images_when_none_are_asked_for(trained):
  network = load(trained)
  evaluator = make_evaluator(load_config(trained), make_mesh(1))
  assert Album(evaluator, network.model, TwoSizes(), 0, (), network.info.palette).draw({}) == {}


def test_pictures_are_small_whatever_the_images():
  large = np.zeros((3000, 1500, 3), np.uint8)
  assert strip([large] * 5).shape == (SIDE, 5 * (SIDE // 2 + GAP) - GAP, 3)
  assert strip([np.zeros((1, 2000, 3), np.uint8)]).shape == (1, SIDE, 3)


def test_colours():
  assert heat(np.array([[0.0, 0.5, 1.0]]))[0, 0].tolist() == [0, 0, 0]
  assert heat(np.array([[0.0, 0.5, 1.0]]))[0, 2].tolist() == [255, 255, 255]
  assert abs(heat(np.array([[0.5]]))[0, 0] - np.array(pictures.RAMP[1])).max() <= 2
  assert coloured(np.array([[1, 255]], np.uint8), ((1, 2, 3), (4, 5, 6))).tolist() == [
    [[4, 5, 6], list(GREY)]
  ]


@pytest.mark.parametrize(
  ("steps", "every", "most"), [(1000, 100, 10), (100_000, 100, DRAWN + 1), (50, 0, 1), (70, 50, 2)]
)
def test_scorings_with_pictures_are_bounded(steps, every, most):
  stage = types.SimpleNamespace(steps=steps, eval_every=every)
  score = types.SimpleNamespace(stage=stage)
  scored = {*range(every, steps + 1, every or steps), steps} if every else {steps}
  drawn = [step for step in scored if StageScore.draws(score, step)]
  assert steps in drawn
  assert len(drawn) <= most
  assert len(drawn) >= min(most, DRAWN) // 2


def test_a_negative_count_is_a_mistake(tiny_config, tmp_path):
  with pytest.raises(UserError, match=r"train\.log_images=-1 must be at least 0"):
    assemble.check_numbers(tiny_config(train__log_images=-1))
