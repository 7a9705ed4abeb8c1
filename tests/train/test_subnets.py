"""Subnets in training: what they learn from, what stays frozen, and what comes after them."""

import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from errseg_jax import assemble
from errseg_jax.assemble import with_defaults
from errseg_jax.config_flags import override
from errseg_jax.confusion import confusion
from errseg_jax.errors import UserError
from errseg_jax.evaluate import evaluate
from errseg_jax.inference.choice import Choice
from errseg_jax.inference.confusion import count_confusion
from errseg_jax.inference.evaluator import make_evaluator
from errseg_jax.inference.statistics import make_counter
from errseg_jax.losses import SubnetsLoss, jaccard_loss
from errseg_jax.models.confusion_groups import group_label
from errseg_jax.models.error_aware import infer
from errseg_jax.pixel_losses import Confusion
from errseg_jax.sharding import make_mesh
from errseg_jax.structs import Outputs
from errseg_jax.train.restore import load, trained_variables
from errseg_jax.train.stages import plan
from errseg_jax.train.trainer import Trainer
from errseg_jax.train.workdir import load_config

GROUPS = (("ground", "sign"),)
STACKED = ("semantic", "subnets", "detail", "error")


@pytest.fixture(scope="module")
def stacked(tiny_config, tmp_path_factory):
  """The workdir of error and detail branches on top of subnets, whose loss counts its matrix anew."""
  config = tiny_config(
    order=STACKED,
    groups__named=GROUPS,
    error_branch__prior="detail",
    stages__semantic__steps=20,
    stages__subnets__steps=6,
    subnets_loss__pixel={"name": "confusion", "refresh": 2},
  )
  workdir = tmp_path_factory.mktemp("subnets") / "run"
  Trainer(with_defaults(config), workdir).run()
  return workdir


def parts(workdir):
  config = load_config(workdir)
  model = assemble.model(config, 3)
  return config, model, trained_variables(config, workdir, model)


def padded(config, image):
  """32 x 48 in its bucket, as evaluation and prediction see it."""
  out = np.empty((1, 32, 64, 3), np.uint8)
  out[:] = assemble.pad_value(config)
  out[0, :, :48] = image
  return out


def test_the_fused_scores_are_the_semantic_branch_of_what_follows(stacked):
  results = evaluate(load_config(stacked), stacked, "val")
  assert {"base", "semantic", "detail", "fused"} <= results.keys()
  assert results["speed"]["subnets_ms"] >= 0
  config, model, variables = parts(stacked)
  source = assemble.dataset(config).source("val")
  counts = {name: np.zeros(2, int) for name in ("base", "semantic")}
  for sample in (source[i] for i in range(len(source))):
    out = infer(model, variables, padded(config, sample["image"]))
    valid = sample["label"] != 255
    for name in counts:
      labels = np.asarray(getattr(out, name).argmax(-1))[0, :32, :48]
      counts[name] += [(labels == sample["label"])[valid].sum(), valid.sum()]
  for name, (right, pixels) in counts.items():
    assert results[name]["aAcc"] == pytest.approx(100 * right / pixels, abs=0.1)
  image = source[0]["image"]
  got = load(stacked).predict(image).semantic_labels
  out = infer(model, variables, padded(config, image)).semantic
  np.testing.assert_array_equal(got, np.asarray(out.argmax(-1))[0, :32, :48])


def test_the_stage_leaves_subnets_and_nothing_else(stacked):
  manager = ocp.CheckpointManager(stacked / "checkpoints" / "subnets")
  kinds = {name: ocp.args.StandardRestore() for name in ("state", "result")}
  found = manager.restore(manager.latest_step(), args=ocp.args.Composite(**kinds))
  manager.close()
  assert set(found["result"]["params"]) == {"subnets"}
  assert not found["result"].get("batch_stats")
  shapes = sorted(x.shape for x in jax.tree.leaves(found["result"]["params"]))
  slots = sorted(x.shape for x in jax.tree.leaves(found["state"]["opt_state"]) if x.shape)
  assert slots == sorted(2 * shapes)


def test_metrics_tell_the_network_from_its_subnets(stacked):
  rows = [json.loads(line) for line in (stacked / "metrics.jsonl").read_text().splitlines()]
  scores = [row for row in rows if row["stage"] == "subnets" and "choose/base/mIoU" in row]
  assert len({row["choose/base/mIoU"] for row in scores}) == 1
  assert all("choose/semantic/mIoU" in row for row in scores)
  assert not any("choose/base/mIoU" in row for row in rows if row["stage"] == "semantic")


def test_each_subnet_has_the_loss_of_its_own_space():
  rng, groups = np.random.default_rng(0), ((0, 2), (1, 3, 4))
  label = rng.integers(0, 6, (2, 4, 5)).astype(np.uint8)
  label[0, 0] = 255
  logits = [rng.normal(size=(2, 4, 5, k)).astype(np.float32) for k in (3, 4)]
  outputs = Outputs(rng.normal(size=(2, 4, 5, 6)).astype(np.float32), subnets=tuple(logits))
  want = 0.0
  for z, group in zip(logits, groups, strict=True):
    log_p = np.asarray(jax.nn.log_softmax(z))
    own = np.vectorize(lambda c, group=group: group.index(c) + 1 if c in group else 0)(label)
    picked = np.take_along_axis(log_p, own[..., None], -1)[..., 0]
    want -= picked[label != 255].mean()
  assert SubnetsLoss(groups)(outputs, label) == pytest.approx(want, rel=1e-5)
  extra = sum(jaccard_loss(z, group_label(label, g)) for z, g in zip(logits, groups, strict=True))
  assert SubnetsLoss(groups, jaccard=2.0)(outputs, label) == pytest.approx(float(want + 2 * extra), rel=1e-5)
  counts = rng.integers(1, 9, (6, 6))
  loss = SubnetsLoss(groups, Confusion())
  matrices = loss.matrices(counts)
  assert [m.shape for m in matrices] == [(3, 3), (4, 4)]
  np.testing.assert_allclose(matrices[0][1, 2], counts[0, 2] / counts[0].sum(), rtol=1e-6)
  assert loss(outputs, label, matrices) > SubnetsLoss(groups)(outputs, label)


def test_groups_come_from_the_confusion_of_a_given_network(tiny_config, trained, tmp_path):
  given = tmp_path / "given"
  shutil.copytree(trained, given)
  shutil.rmtree(given / "confusion", ignore_errors=True)
  config = with_defaults(tiny_config(order=("subnets",), segmenter__init=str(given), groups__threshold=1e-6))
  with pytest.raises(UserError, match="errseg confusion --workdir="):
    Trainer(config, tmp_path / "run")
  confusion(override(load_config(given), ["--config.groups.threshold=1e-6"]), given, "train")
  found = json.loads((given / "confusion/train.json").read_text())
  assert found["groups"]
  named = Trainer(config, tmp_path / "run").config.groups.named
  assert [list(group) for group in named] == [group["classes"] for group in found["groups"]]
  other = config.copy_and_resolve_references()
  other.data.class_names = ("ground", "wall", "board")
  with pytest.raises(UserError, match="other classes"):
    Trainer(other, tmp_path / "run")
  config.groups.threshold = 0.999
  with pytest.raises(UserError, match="lower it"):
    Trainer(config, tmp_path / "run")


def test_a_given_network_is_trained_on_and_handed_on(tiny_config, trained, tmp_path):
  order = ("finetune", "subnets")
  config = tiny_config(order=order, segmenter__init=str(trained), groups__named=GROUPS)
  Trainer(with_defaults(config), tmp_path / "run").run()
  _, _, variables = parts(tmp_path / "run")
  given = load(trained).variables
  same = jax.tree.map(
    lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()),
    *(v["params"]["segmenter"] for v in (variables, given)),
  )
  assert not all(jax.tree.leaves(same))


@pytest.mark.parametrize(
  ("order", "message"),
  [
    (
      ("semantic", "detail", "subnets"),
      "'subnets' changes the network that 'detail' learns from; put it first",
    ),
    (("semantic", "subnets", "finetune"), "'finetune' changes the network that 'subnets' learns from"),
  ],
)
def test_the_network_is_whole_before_anything_learns_from_its_errors(tiny_config, order, message):
  config = with_defaults(tiny_config(order=order, groups__named=GROUPS, error_branch__prior="none"))
  with pytest.raises(UserError, match=message):
    plan(config)


def test_a_network_with_subnets_is_no_start_without_them(tiny_config, stacked, tmp_path):
  config = with_defaults(tiny_config(segmenter__init=str(stacked), order=("error", "detail")))
  with pytest.raises(UserError, match="would be left behind"):
    Trainer(config, tmp_path).run()


def test_what_is_counted_is_the_network_without_its_subnets(stacked):
  config, model, variables = parts(stacked)
  source = assemble.dataset(config).source("val")
  evaluator = make_evaluator(config, make_mesh(1))
  counts = count_confusion(evaluator, model, variables, source)
  whole = evaluator.run(make_counter(model, wanted=()), variables, source, Choice()).counts
  np.testing.assert_array_equal(counts, whole["confusion/base"])
  assert (counts != whole["confusion/semantic"]).any()


def test_until_the_first_count_a_network_from_nothing_learns_by_cross_entropy(tiny_config, tmp_path):
  pixel = {"name": "confusion", "refresh": 100, "diag": "confusion"}
  rows = []
  for name, changes in (("named", {"semantic_loss__pixel": pixel}), ("plain", {})):
    config = tiny_config(order=("semantic",), stages__semantic__eval_every=0, **changes)
    Trainer(with_defaults(config), tmp_path / name).run()
    lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
    rows.append([json.loads(line).get("train/loss") for line in lines])
  np.testing.assert_allclose(*([x for x in row if x] for row in rows), rtol=1e-5)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"groups__named": ()}, "config.groups.named is empty"),
    ({"groups__named": (("ground", "sing"),)}, "sign"),
    ({"groups__named": (("ground", "sign"), ("sign", "wall"))}, "group 1 too"),
    ({"groups__named": ((), ("sign", "wall"))}, "group 1 is empty"),
    ({"subnets__rule": "mean"}, "config.subnets.rule"),
    ({"subnets__depth": (1, 2)}, "config.subnets.depth"),
    ({"subnets__depth": (2.5,)}, "config.subnets.depth"),
    ({"subnets__dilation": (0,)}, "config.subnets.dilation"),
    ({"subnets__features": 1}, "config.subnets.features"),
    ({"subnets__strides": (3,)}, "config.subnets.strides"),
    ({"subnets__strides": ((4,), (8,))}, "config.subnets.strides"),
    ({"subnets__strides": ([4], 8)}, "config.subnets.strides"),
    ({"groups__named": [["ground", "road"]]}, "road"),
    ({"splits__error_source": "crossfit", "splits__choose": ""}, "exclude each other"),
    ({"semantic_loss__pixel": {"name": "confusion"}}, "refresh=0"),
    (
      {
        "subnets_loss__pixel": {"name": "confusion", "on": "choose"},
        "splits__choose": "val",
        "train__select": "last",
      },
      "which is reported",
    ),
    ({"subnets_loss__pixel": {"name": "median_frequency"}}, "a subnet has its own"),
  ],
)
def test_a_mistake_is_one_line(tiny_config, tmp_path, changes, message):
  config = tiny_config(**{"order": ("semantic", "subnets"), "groups__named": GROUPS} | changes)
  with pytest.raises(UserError, match=message):
    Trainer(with_defaults(config), tmp_path)
