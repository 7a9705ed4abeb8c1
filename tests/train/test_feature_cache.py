"""Branches that train from a cache of features learn what they would with the network at work."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest

from errseg_jax import assemble
from errseg_jax.assemble import with_defaults
from errseg_jax.cli import main
from errseg_jax.data.feature_records import INDEX, open_cache, record_bytes
from errseg_jax.errors import UserError
from errseg_jax.prepare.cache import Views, cache
from errseg_jax.structs import Batch
from errseg_jax.train.initialise import initial_variables
from errseg_jax.train.state import split
from errseg_jax.train.step import make_loss
from errseg_jax.train.trainer import Trainer

PASSES = 3


def config_of(tiny_config, workdir, **changes):
  changes = {"error_branch__prior": "detail", "order": ("detail", "error"), **changes}
  config = tiny_config(**changes)
  config.segmenter.init = str(workdir)
  return with_defaults(config)


@pytest.fixture(scope="module")
def cached(trained, tiny_config, tmp_path_factory):
  """(folder, config) of a whole cache."""
  folder = tmp_path_factory.mktemp("cache") / "features"
  config = config_of(tiny_config, trained)
  cache(config, folder, PASSES)
  return folder, config


def with_cache(config, folder):
  config = config.copy_and_resolve_references()
  config.loader.features = str(folder)
  return config


def test_records_are_views_and_what_the_network_says_of_them(cached):
  folder, config = cached
  found, trainer = open_cache(folder), Trainer(config, folder / "run")
  source = trainer.sources["branches"]
  assert len(found) == PASSES * len(source)
  views = Views(source, assemble.transform(config, "branches", source), config.seed, PASSES)
  variables = initial_variables(trainer.model, config)
  network = {kind: tree["segmenter"] for kind, tree in variables.items()}
  for index in (0, len(source) + 3, len(found) - 1):
    arrays, view = found[index], views[index]
    np.testing.assert_array_equal(arrays["image"], view["image"])
    np.testing.assert_array_equal(arrays["label"], view["label"])
    features = trainer.model.segmenter.apply(network, view["image"][None])
    np.testing.assert_allclose(arrays["logits"], features.logits[0], atol=1e-4)
    for k, want in enumerate(features.low):
      np.testing.assert_allclose(np.float32(arrays[f"low{k}"]), want[0], rtol=0.01, atol=0.01)
    np.testing.assert_allclose(np.float32(arrays["high"]), features.high[0], rtol=0.01, atol=0.01)
  assert found.names[len(source)] == source.names[0]


def test_each_pass_and_each_image_has_a_view_of_its_own():
  def draw(sample, rng):
    return {"image": rng.integers(1 << 30), "label": sample}

  views = Views([0, 0, 0], draw, seed=1, passes=4)
  numbers = [int(views[k]["image"]) for k in range(len(views))]
  assert len({*numbers}) == 12
  assert numbers == [int(views[k]["image"]) for k in range(12)]
  assert numbers != [int(Views([0, 0, 0], draw, seed=2, passes=4)[k]["image"]) for k in range(12)]


def test_the_loss_and_its_gradient_are_those_of_the_network_at_work(cached):
  folder, config = cached
  trainer, found = Trainer(with_cache(config, folder), folder / "run"), open_cache(folder)
  variables = initial_variables(trainer.model, config)
  rows = [found[k] for k in range(4)]
  arrays = found.assembled({key: np.stack([row[key] for row in rows]) for key in rows[0]})
  for stage in trainer.stages:
    loss = make_loss(trainer.model, stage, trainer.losses[stage.name])
    own, frozen = split(variables, stage.groups)
    run = functools.partial(
      jax.value_and_grad(loss, has_aux=True), own["params"], {}, frozen, rng=jax.random.key(0)
    )
    (with_it, _), grads = jax.jit(lambda batch, run=run: run(batch=batch))(Batch(**arrays))
    bare = Batch(arrays["image"], arrays["label"])
    (without, _), others = jax.jit(lambda batch, run=run: run(batch=batch))(bare)
    np.testing.assert_allclose(with_it, without, rtol=0.01)
    scale = max(float(np.abs(x).max()) for x in jax.tree.leaves(others))
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(others), strict=True):
      np.testing.assert_allclose(a, b, atol=0.05 * scale)


def test_a_run_trains_from_it_and_rests_without(cached, trained, tmp_path):
  folder, config = cached
  shutil.copytree(folder, tmp_path / "features")
  trainer = Trainer(with_cache(config, tmp_path / "features"), tmp_path / "run")
  trainer.run()
  shutil.rmtree(tmp_path / "features")
  assert main(["evaluate", f"--workdir={tmp_path / 'run'}"]) == 0
  found = json.loads((tmp_path / "run" / "results.json").read_text())
  want = json.loads((trained / "results.json").read_text()) if (trained / "results.json").exists() else found
  assert found["semantic"]["mIoU"] == want["semantic"]["mIoU"]


def test_a_killed_call_goes_on(cached, tmp_path, monkeypatch):
  folder, config = cached
  monkeypatch.setattr("errseg_jax.prepare.cache.SHARD", 4)
  whole = tmp_path / "features"
  cache(config, whole, PASSES)
  shards = sorted(whole.glob("*.array_record"))
  assert len(shards) > 2
  times = {path: path.stat().st_mtime_ns for path in shards[:-1]}
  shards[-1].unlink()
  (whole / INDEX).unlink()
  with pytest.raises(UserError, match="no such file"):
    open_cache(whole)
  cache(config, whole, PASSES)
  assert {path: path.stat().st_mtime_ns for path in times} == times
  first, again = open_cache(folder), open_cache(whole)
  for index in range(len(first)):
    for name, array in first[index].items():
      np.testing.assert_allclose(np.float32(again[index][name]), np.float32(array), atol=0.05)


def test_what_does_not_fit_is_one_line(cached, trained, tiny_config, tmp_path, monkeypatch, capsys):
  folder, config = cached
  other = config.copy_and_resolve_references()
  other.transform.rotation = 3.0
  with pytest.raises(UserError, match="another transform"):
    Trainer(with_cache(other, folder), tmp_path / "a")
  with pytest.raises(UserError, match=r"segmenter\.init=W"):
    Trainer(with_cache(tiny_config(), folder), tmp_path / "b")
  with pytest.raises(UserError, match=r"segmenter\.init=W"):
    cache(tiny_config(), tmp_path / "c", 1)
  with pytest.raises(UserError, match="another passes"):
    cache(config, folder, PASSES + 1)
  with pytest.raises(UserError, match="at least 1"):
    cache(config, tmp_path / "d", 0)
  with pytest.raises(UserError, match="is a cache already"):
    cache(with_cache(config, folder), tmp_path / "d", 1)
  index = json.loads((folder / INDEX).read_text())
  for content, message in (
    ("{", "is damaged"),
    (json.dumps({**index, "schema": 7}), "schema 7"),
    (json.dumps({**index, "records": 5}), "do not hold what it says"),
    (json.dumps({**index, "layout": [["image", "complex", [1]]]}), "is damaged"),
    (json.dumps({**index, "settings": {**index["settings"], "network": "0"}}), "another network"),
  ):
    broken = tmp_path / "broken"
    shutil.rmtree(broken, ignore_errors=True)
    shutil.copytree(folder, broken)
    (broken / INDEX).write_text(content)
    with pytest.raises(UserError, match=message):
      Trainer(with_cache(config, broken), tmp_path / "e").run()
  monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
  capsys.readouterr()
  with pytest.raises(UserError, match="are free"):
    cache(config, tmp_path / "f", 1)
  found = open_cache(folder)
  whole = record_bytes(found.layout) * len(found) // PASSES / 1e6
  assert (
    f"f: about {whole:.1f} MB to write\n" in capsys.readouterr().out
  )  # said first, even where it is refused
  assert not list((tmp_path / "f").glob("*.array_record"))


@pytest.mark.parametrize(("features", "maps"), [("low", 1), ("logits", 0)])
def test_less_of_the_features_is_kept_and_seen(trained, tiny_config, tmp_path, features, maps):
  config = config_of(tiny_config, trained)
  config.segmenter.features = features
  flags = ["--passes=1", f"--out={tmp_path / 'features'}"]
  cache(config, tmp_path / "features", 1)
  found = open_cache(tmp_path / "features")
  names = {name for name, _, _ in found.layout}
  assert "high" not in names
  assert bool(maps) == ("low0" in names)
  Trainer(with_cache(config, tmp_path / "features"), tmp_path / "run").run()
  assert main(["evaluate", f"--workdir={tmp_path / 'run'}"]) == 0
  assert main(["data", "extract", f"--workdir={tmp_path / 'run'}", *flags]) == 2
