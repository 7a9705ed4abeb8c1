"""PyTorch networks through torchax: the same logits and features, and branches that train on them."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

import errseg_jax
from errseg_jax.adapters import torch as module
from errseg_jax.adapters.network import Adapted, given_weights, normalised
from errseg_jax.adapters.torch import from_torch
from errseg_jax.assemble import with_defaults
from errseg_jax.cli import main
from errseg_jax.errors import UserError
from errseg_jax.train.trainer import Trainer

CLASSES = 3
CODE = """
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation


def segformer(seed=0):
  torch.manual_seed(seed)
  sizes = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 4]}
  config = SegformerConfig(decoder_hidden_size=16, num_labels=3, **sizes)
  return SegformerForSemanticSegmentation(config).eval()


def nothing():
  return 3
"""


class Plain(nn.Module):
  """A stride of 4, batch normalisation with statistics of its own, an output as asked for."""

  def __init__(self, wrap=lambda x: x):
    super().__init__()
    torch.manual_seed(0)
    self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
    self.body = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())
    self.head = nn.Conv2d(12, CLASSES, 1)
    self.wrap = wrap
    self.stem[1].running_mean.normal_()
    self.stem[1].running_var.uniform_(0.5, 2.0)

  def forward(self, x):
    return self.wrap(self.head(self.body(self.stem(x))))


def tensor():
  return Plain().eval()


def dictionary():
  return Plain(lambda x: {"aux": -x, "out": x}).eval()


@pytest.fixture(scope="module")
def code(tmp_path_factory):
  pytest.importorskip("transformers")
  folder = tmp_path_factory.mktemp("code")
  (folder / "theirs.py").write_text(CODE)
  sys.path.insert(0, str(folder))
  import theirs

  yield theirs
  sys.path.remove(str(folder))
  sys.modules.pop("theirs", None)


def features_of(network, image):
  adapted = Adapted(network)
  return jax.jit(adapted.apply)({"params": given_weights(adapted)}, image)


def image_of(size=(64, 96)):
  return np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)


def theirs_of(net, image):
  x = torch.from_numpy(np.array(normalised(channels_first=True)(image)))
  with torch.no_grad():
    return net(x)


def assert_close(ours, tensor):
  want = tensor.numpy().transpose(0, 2, 3, 1)
  assert ours.shape == want.shape
  np.testing.assert_allclose(ours, want, atol=1e-5 * np.abs(want).max(), rtol=0)


def test_segformer_gives_pytorchs_logits_and_features(code):
  net, image = code.segformer(), image_of()
  found = features_of(from_torch(net, CLASSES, high="decode_head.linear_fuse"), image)
  heard = {}
  net.get_submodule("decode_head.linear_fuse").register_forward_hook(
    lambda m, given, out: heard.update(high=out)
  )
  assert_close(found.logits, theirs_of(net, image).logits)
  assert_close(found.high, heard["high"])


@pytest.mark.parametrize("build", [tensor, dictionary])
def test_tensors_and_dictionaries_are_taken(build):
  net, image = build(), image_of((48, 80))
  found = features_of(from_torch(net, CLASSES, low=("stem", "body"), high="body"), image)
  assert_close(found.logits, logits_of(theirs_of(net, image)))
  assert found.strides == (2, 4)
  assert_close(found.low[0], theirs_of(net.stem, image))
  assert_close(found.high, _body(net, image))


def logits_of(out):
  if hasattr(out, "logits"):
    return out.logits
  return out["out"] if isinstance(out, dict) else out


def _body(net, image):
  with torch.no_grad():
    return net.body(theirs_of(net.stem, image))


def test_parameters_are_arguments_of_the_program():
  network = from_torch(Plain().eval(), CLASSES)
  shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in network.weights.items()}
  assert sum(x.size for x in network.weights.values()) >= 1000
  text = jax.jit(network.function).lower(shapes, jnp.zeros((1, 3, 32, 32))).as_text()
  assert not [line for line in text.splitlines() if "dense<" in line and len(line) > 2000]


def test_queries_become_class_scores():
  class Out:
    class_queries_logits = torch.tensor([[[2.0, 0.0, 0.0, -1.0], [0.0, 3.0, 0.0, 0.0]]])
    masks_queries_logits = torch.randn(1, 2, 4, 5)

  seen = Out.class_queries_logits.softmax(-1)[0, :, :-1].T @ Out.masks_queries_logits.sigmoid()[0].flatten(1)
  torch.testing.assert_close(module.scores_of(Out()).exp()[0].flatten(1), seen)
  with pytest.raises(UserError, match="returns list: it must be a tensor"):
    module.scores_of([1])


HERE = "tests.parity.test_torch_adapter"


@pytest.mark.parametrize(
  ("factory", "more"),
  [
    ("theirs:segformer", {"options": {"seed": 1}}),
    (f"{HERE}:tensor", {"low": ("stem", "body")}),
    (f"{HERE}:dictionary", {}),
  ],
  ids=["segformer", "tensor", "dictionary"],
)
def test_branches_train_on_it_and_every_command_takes_it(factory, more, code, tiny_config, tmp_path):
  adapter = {"name": "torch", "factory": factory, **more}
  config = with_defaults(tiny_config(order=("detail", "error"), segmenter__adapter=adapter))
  Trainer(config, tmp_path / "run").run()
  assert main(["evaluate", f"--workdir={tmp_path / 'run'}"]) == 0
  image = image_of()[0]
  found = errseg_jax.load(str(tmp_path / "run")).predict(image)
  net = {"segformer": lambda: code.segformer(1), "tensor": tensor, "dictionary": dictionary}[
    factory.split(":")[1]
  ]()
  logits = logits_of(theirs_of(net, image[None]))
  want = nn.functional.interpolate(logits, image.shape[:2], mode="bilinear").argmax(1)[0].numpy()
  assert (found.semantic_labels == want).mean() > 0.999


def test_what_does_not_fit_is_one_line(code, tiny_config, tmp_path, monkeypatch):
  for factory, message in (("theirs:nothing", "returns int, no torch.nn.Module"),):
    config = with_defaults(
      tiny_config(order=("detail", "error"), segmenter__adapter={"name": "torch", "factory": factory})
    )
    with pytest.raises(UserError, match=message):
      Trainer(config, tmp_path / "run")
  with pytest.raises(UserError, match="no submodule 'neck'"):
    from_torch(Plain(), CLASSES, low=("neck",))
  monkeypatch.setitem(sys.modules, "torchax", None)
  with pytest.raises(UserError, match=r"pip install torch==|do not fit each other"):
    module.loaded()
