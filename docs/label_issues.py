"""Precision of `errseg label-issues` on planted label errors: `python docs/label_issues.py WORKDIR SPLIT [SEEDS]`.

Regions of the split's labels are flipped in memory, once for each seed, and both rankings list what they find. A listed
region is a hit if most of its pixels lie in a planted one that no region before it has hit.
"""

import functools
import sys

import jax
import numpy as np

import errseg_jax
from errseg_jax import assemble
from errseg_jax.cli import prepare
from errseg_jax.config import default_config
from errseg_jax.data.plant import PlantedSource, struck
from errseg_jax.inference.choice import rebalanced
from errseg_jax.inference.evaluator import make_evaluator
from errseg_jax.inference.label_quality import RANKINGS, belief, verdict
from errseg_jax.label_issues import find_issues
from errseg_jax.models.error_aware import infer
from errseg_jax.sharding import make_mesh, place

SHARE, TOPS = 0.03, (50, 100, 200)


@functools.partial(jax.jit, static_argnums=(0, 1))
def judge(model, fusion, variables, image, labels, choice):
  """{ranking: a `verdict` for each planting}; the network runs once for all of them."""
  outputs = rebalanced(infer(model, variables, image), model.detail_weights, choice)
  beliefs = {by: belief(outputs, by, fusion, choice) for by in RANKINGS}
  return {by: [verdict(p, label) for label in labels] for by, p in beliefs.items()}


def found(name, label, row, numbers, num_classes):
  """(score, hit: image and number of the planted region, or None) of each region found in an image."""
  for issue in find_issues(name, label, row["predicted"], row["evidence"], num_classes):
    inside = (label[issue.box] == issue.given) & (row["predicted"][issue.box] == issue.predicted)
    number = struck(numbers[issue.box][inside])
    yield issue.score, (name, number) if number else None


def precision(entries, k: int) -> float:
  """Percent of the first k that are hits; each planted region counts once."""
  first = sorted(entries, key=lambda entry: -entry[0])[:k]
  return 100 * len({hit for _, hit in first if hit}) / k


def main(workdir: str, split: str, seeds: int) -> None:
  prepare(default_config())
  network = errseg_jax.load(workdir)
  source = assemble.dataset(network.config).source(split)
  mesh = make_mesh(network.config.num_devices)
  variables, choice = place(network.variables, mesh), network.choice.arrays()
  plantings = [PlantedSource(source, SHARE, seed=seed) for seed in range(seeds)]
  planted = np.zeros(seeds, int)
  entries = {by: [[] for _ in plantings] for by in RANKINGS}
  index = {name: i for i, name in enumerate(source.names)}
  for batch, names in make_evaluator(network.config, mesh).batches(source):
    clean = np.asarray(batch.label)
    labels, numbers = np.stack([clean] * seeds), np.zeros((seeds, *clean.shape), np.int32)
    for seed, planting in enumerate(plantings):
      for i, name in enumerate(names):
        labels[seed, i], numbers[seed, i] = planting.plant(clean[i], index[name])
        planted[seed] += numbers[seed, i].max()
    verdicts = jax.device_get(
      judge(network.model, network.choice.fusion, variables, batch.image, labels, choice)
    )
    for by, of_seeds in verdicts.items():
      for seed, rows in enumerate(of_seeds):
        for i, name in enumerate(names):
          row = {k: v[i] for k, v in rows.items()}
          args = name, labels[seed, i], row, numbers[seed, i], network.info.num_classes
          entries[by][seed] += found(*args)
  print(f"{len(source)} images of {split}; planted regions: {planted.tolist()}")
  for by, of_seeds in entries.items():
    print(f"{by}: {[len(e) for e in of_seeds]} regions")
    for k in ("planted", *TOPS):
      ks = planted if k == "planted" else [k] * seeds
      values = [precision(e, n) for e, n in zip(of_seeds, ks, strict=True)]
      best = np.mean([100 * min(1, p / n) for p, n in zip(planted, ks, strict=True)])
      spread = np.std(values, ddof=1) if seeds > 1 else 0.0
      print(f"  k = {k}: {np.mean(values):.1f} ± {spread:.1f} (at most {best:.1f}) {np.round(values, 1)}")


if __name__ == "__main__":
  main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if sys.argv[3:] else 3)
