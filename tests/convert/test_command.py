"""errseg convert, from a published file to a run that starts from it."""

import json

import jax
import numpy as np
import pytest

from errseg_jax import assemble, commands
from errseg_jax.cli import main
from errseg_jax.errors import UserError
from errseg_jax.train.backbone_weights import load_backbone
from errseg_jax.train.given import segmenter_of
from errseg_jax.train.initialise import initial_variables
from errseg_jax.train.workdir import load_config

RESNET = {"name": "resnet", "depth": 10, "width": 8}


@pytest.fixture(autouse=True)
def _keep_settings(monkeypatch):
  """Commands set up logging, the cache and the platform of a whole process; this one has them."""
  monkeypatch.setattr(commands, "prepare", lambda config, distributed="off": None)


@pytest.fixture
def refused(capsys):
  """(words, *expected): `errseg convert` with status 2 and one line on stderr that has them."""

  def check(words, *expected):
    assert main(["convert", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("errseg: ")
    assert err.count("\n") == 1
    for word in expected:
      assert str(word) in err, err

  return check


def flags(name, weights, out, *more):
  return [f"--from={name}", f"--weights={weights}", f"--out={out}", *more]


@pytest.fixture
def backbone_file(tmp_path, published, draw):
  """(published file of a small ResNet trained on ImageNet, our variables of it)."""
  arrays, ours, _ = published("torchvision_resnet", RESNET, draw=draw)
  arrays |= {"fc.weight": np.zeros((5, 64)), "fc.bias": np.zeros(5), "bn1.num_batches_tracked": np.array(3)}
  np.savez(tmp_path / "resnet.npz", **arrays)
  return tmp_path / "resnet.npz", {kind: tree["backbone"] for kind, tree in ours.items()}


def test_a_backbone_starts_a_run_with_its_statistics(tmp_path, tiny_config, backbone_file):
  file, ours = backbone_file
  out = tmp_path / "ours.npz"
  assert main(["convert", *flags("torchvision_resnet", file, out)]) == 0
  config = assemble.with_defaults(tiny_config(segmenter__backbone_weights=str(out)))
  variables = initial_variables(assemble.model(config, 3), config)
  for kind, tree in ours.items():
    jax.tree.map(np.testing.assert_array_equal, variables[kind]["segmenter"]["backbone"], tree)
  with np.load(out, allow_pickle=False) as file:
    about = json.loads(str(file["segmenter.json"]))
  assert (about["backbone"]["depth"], about["channels"]) == (10, "rgb")


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"mean": (0.0, 0.0, 0.0)}, ("segmenter.mean", "123.675", "set the same")),
    ({"channels": "bgr"}, ("segmenter.channels", "set the same")),
    ({"backbone": {**RESNET, "width": 4}}, ("does not fit the backbone", "'width': 8")),
  ],
)
def test_a_backbone_s_preprocessing_and_shape_travel_with_it(
  tmp_path, tiny_config, backbone_file, change, words
):
  file, _ = backbone_file
  out = tmp_path / "ours.npz"
  assert main(["convert", *flags("torchvision_resnet", file, out)]) == 0
  config = assemble.with_defaults(tiny_config(**{f"segmenter__{k}": v for k, v in change.items()}))
  like = jax.eval_shape(assemble.model(config, 3).init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.uint8))
  like = {kind: tree["segmenter"]["backbone"] for kind, tree in like.items()}
  with pytest.raises(UserError) as caught:
    load_backbone(out, like, config)
  for word in words:
    assert word in str(caught.value)


def test_what_exists_is_never_overwritten(tmp_path, refused, backbone_file):
  file, _ = backbone_file
  before = file.read_bytes()
  refused(flags("torchvision_resnet", file, file), "exists")
  (tmp_path / "folder").mkdir()
  refused(flags("torchvision_resnet", file, tmp_path / "folder"), "exists")
  refused(flags("torchvision_resnet", file, tmp_path / "new"), "--out=NAME.npz")
  assert file.read_bytes() == before
  assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "resnet.npz"]


def test_wrong_flags_are_one_line(tmp_path, refused, backbone_file):
  file, _ = backbone_file
  refused(flags("torchvision_resnett", file, tmp_path / "a.npz"), "did you mean 'torchvision_resnet'")
  refused([f"--weights={file}", "--out=x"], "--from=NAME is needed")
  refused(
    flags("torchvision_resnet", tmp_path / "none.pth", tmp_path / "a.npz"), "none.pth", "does not exist"
  )
  refused(flags("torchvision_resnet", file, tmp_path / "a.npz", "--drop=tail"), "--drop='tail'", "head")


@pytest.fixture
def fcn_file(tmp_path, published, draw):
  """(published file of a small torchvision FCN with 5 classes, our variables of it)."""
  backbone, head = {**RESNET, "output_stride": 8}, {"name": "fcn", "features": 6}
  arrays, ours, _ = published("torchvision_fcn", backbone, head, 5, draw)
  np.savez(tmp_path / "fcn.npz", **arrays)
  return tmp_path / "fcn.npz", ours


def test_a_network_becomes_a_finished_run(tmp_path, fcn_file, capsys):
  file, ours = fcn_file
  out = tmp_path / "run"
  assert main(["convert", *flags("torchvision_fcn", file, out)]) == 0
  assert f"5 classes; use it by --config.segmenter.init={out}" in capsys.readouterr().out
  config = load_config(out)
  assert (config.order, config.data.num_classes, config.segmenter.head.name) == (("semantic",), 5, "fcn")
  like = {kind: {"segmenter": tree} for kind, tree in ours.items()}
  found = segmenter_of(out, like)
  jax.tree.map(np.testing.assert_array_equal, found, like)


def test_a_head_is_dropped_for_another_class_count(tmp_path, fcn_file, refused):
  file, ours = fcn_file
  refused(flags("torchvision_fcn", file, tmp_path / "folder", "--drop=head"), "--out=NAME.npz")
  refused(flags("torchvision_fcn", file, tmp_path / "a.npz"), "name a folder")
  out = tmp_path / "backbone.npz"
  assert main(["convert", *flags("torchvision_fcn", file, out, "--drop=head")]) == 0
  with np.load(out, allow_pickle=False) as arrays:
    kernel = ours["params"]["backbone"]["layer1_0"]["conv1"]["conv"]["kernel"]
    np.testing.assert_array_equal(arrays["layer1_0/conv1/kernel"], kernel)
    assert not [name for name in arrays.files if "head" in name or "classifier" in name]


def test_the_first_class_is_dropped_where_it_is_void(tmp_path, fcn_file, backbone_file, refused):
  file, ours = fcn_file
  out = tmp_path / "run"
  assert main(["convert", *flags("torchvision_fcn", file, out, "--drop=class0")]) == 0
  assert load_config(out).data.num_classes == 4
  like = {kind: {"segmenter": tree} for kind, tree in ours.items()}
  head = like["params"]["segmenter"]["head"]
  head["classifier"]["conv"] = {k: v[..., 1:] for k, v in head["classifier"]["conv"].items()}
  jax.tree.map(np.testing.assert_array_equal, segmenter_of(out, like), like)
  backbone = flags("torchvision_resnet", backbone_file[0], tmp_path / "a.npz", "--drop=class0")
  refused(backbone, "needs a network with its head")


def test_another_network_is_named(tmp_path, fcn_file, refused):
  file, _ = fcn_file
  for name in ("smp_deeplabv3plus", "torchvision_deeplabv3", "tf_dpc_xception"):
    refused(flags(name, file, tmp_path / "out"), f"is no {name}", "looks like --from=torchvision_fcn")


def damage(arrays, how):
  if how == "missing":
    del arrays["layer3.0.conv1.weight"]
  elif how == "extra":
    arrays["attention.weight"] = np.zeros(3)
  elif how == "shape":
    arrays["layer3.0.conv1.weight"] = np.zeros((32, 16, 5, 5))
  elif how == "not finite":
    arrays["layer3.0.conv1.weight"][0, 0, 0, 0] = np.nan
  elif how == "a number":
    arrays["layer1.0.conv1.weight"] = np.zeros(())
  elif how == "another network":
    arrays.clear()
    arrays["blocks.0.attn.qkv.weight"] = np.zeros((12, 4))
  return arrays


@pytest.mark.parametrize(
  ("how", "words"),
  [
    ("missing", ("missing: 1 (params/backbone/layer3_0/conv1", "cut short, or of another variant")),
    ("extra", ("extra: 1 (attention.weight)",)),
    ("shape", ("layer3.0.conv1.weight [5, 5, 16, 32], not [3, 3, 16, 32]",)),
    ("not finite", ("NaN or infinite: 1 (params/backbone/layer3_0/conv1/conv/kernel)",)),
    ("a number", ("it has no 'layer1.0.conv1.weight'",)),
    ("another network", ("blocks.0.attn.qkv.weight [12, 4]", "no known network")),
  ],
)
def test_a_file_that_does_not_fit_is_one_line_and_leaves_nothing(tmp_path, refused, published, how, words):
  arrays, _, _ = published("torchvision_resnet", RESNET)
  np.savez(tmp_path / "w.npz", **damage(arrays, how))
  refused(flags("torchvision_resnet", tmp_path / "w.npz", tmp_path / "out.npz"), "w.npz", *words)
  assert [p.name for p in tmp_path.iterdir()] == ["w.npz"]


def test_one_class_and_a_sigmoid_are_no_network_of_ours(tmp_path, refused, published):
  backbone, head = {**RESNET, "output_stride": 8}, {"name": "fcn", "features": 6}
  arrays, _, _ = published("torchvision_fcn", backbone, head, 2)
  arrays |= {name: arrays[name][:1] for name in ("classifier.4.weight", "classifier.4.bias")}
  np.savez(tmp_path / "w.npz", **arrays)
  refused(flags("torchvision_fcn", tmp_path / "w.npz", tmp_path / "out"), "one class and a sigmoid")
