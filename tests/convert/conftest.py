"""Published files made up from the rules, read backwards: right names, right shapes, any numbers."""

import re

import numpy as np
import pytest
from flax import traverse_util

from errseg_jax import assemble
from errseg_jax.config import default_config
from errseg_jax.convert.command import rules_of, shapes
from errseg_jax.convert.networks import NETWORKS

BACK = {
  "copy": lambda a: a,
  "conv": lambda a: a.transpose(3, 2, 0, 1),
  "depthwise": lambda a: a.transpose(3, 2, 0, 1),
  "dense_conv": lambda a: a.transpose(3, 2, 0, 1).reshape(a.shape[3], -1),
  "dense_conv7": lambda a: a.transpose(3, 2, 0, 1).reshape(a.shape[3], -1),
  "tf_depthwise": lambda a: a.transpose(0, 1, 3, 2),
}


def published_name(rule, path):
  """The name that the rule sends to `path`, None where it sends none there."""
  groups = re.findall(r"\((?!\?)([^()]*)\)", rule.pattern)
  target = re.sub(
    r"\\(\d)", lambda m: f"(?P<g{m[1]}>{groups[int(m[1]) - 1]})", f"{rule.collection}/{rule.target}"
  )
  match = re.fullmatch(target, path)
  if not match:
    return None
  name, number = re.sub(r"\(\?:[^()]*\)\?", "", rule.pattern), 0
  while found := re.search(r"\((?!\?)[^()]*\)", name):
    number += 1
    name = name[: found.start()] + match[f"g{number}"] + name[found.end() :]
  name = name.replace(r"\d+", "19")  # a number that no place here depends on
  name = re.sub(r"\\(.)", r"\1", name.replace("(?:", "").replace(")", ""))
  return name if rule.path(name) == path else None


@pytest.fixture(scope="session")
def published():
  """(NAME, backbone section, head section, classes) -> (published arrays, our variables, config)."""

  def make(name, backbone, head=None, classes=3, draw=None):
    network, config = NETWORKS[name], default_config()
    config.segmenter.backbone = backbone
    if head:
      config.segmenter.head = head
    config = assemble.with_defaults(config)
    like = shapes(config, classes if head else 0)
    draw = draw or (lambda path, shape: np.zeros(shape, np.float32))
    ours = {k: draw(k, v.shape) for k, v in traverse_util.flatten_dict(like, sep="/").items()}
    rules = [rule for part in rules_of(network, config) for rule in part]
    arrays = {}
    for path, array in ours.items():
      names = [(n, rule.layout) for rule in rules if (n := published_name(rule, path))]
      assert names, f"no rule for {path}"
      arrays[names[0][0]] = BACK[names[0][1]](array)
    return arrays, traverse_util.unflatten_dict(ours, sep="/"), config

  return make


@pytest.fixture(scope="session")
def draw():
  """Random weights that keep activations of order one; variances are positive."""
  rng = np.random.default_rng(0)

  def make(path, shape):
    last = path.rsplit("/", 1)[1]
    if last in ("scale", "var"):
      return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    spread = np.sqrt(2 / np.prod(shape[:-1])) if last == "kernel" else 0.1
    return (spread * rng.normal(size=shape)).astype(np.float32)

  return make
