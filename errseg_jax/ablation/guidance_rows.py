"""P3 step by step: guidance by image classification, several views of an image, the CRF it guides.

All start from the same trained semantic network; what trains takes as many steps on top of it as the config's
branches. Rows that only see or smooth otherwise share the training of `guided`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from errseg_jax.ablation.alternatives import branch_steps, on_base
from errseg_jax.config import guided as guided_config

SCALES = (1.2, 1.0, 0.8)  # each with its mirror image, as published
ITERATIONS = 5
DENSE_RADIUS = 5  # pixels; that kernel costs the square of it


def guided(config: ConfigDict, base: str, combine: str = "", crf: str = "") -> ConfigDict:
  """The network trained on together with guidance.

  Args:
    config: of the comparison.
    base: workdir of the seed's network.
    combine: of six views; "": one view.
    crf: compatibility of the CRF on top, "potts", or "dense": a dense CRF's kernels with Potts; "": none.
  """
  steps, own = branch_steps(config), {"guided", "guidance"} & {*config.order}
  config = on_base(config, base)
  if not own:  # else it is as the config has it
    config = guided_config(config)
  config.order = ("guided",)
  config.stages.guided.steps = steps
  if combine:
    config.views.update(scales=SCALES, mirror=True, combine=combine)
  if crf:
    config.crf.iterations = ITERATIONS
    config.crf.compatibility = "learned" if crf == "learned" else "guidance"
  if crf in ("potts", "dense"):
    config.crf.lam = 0.0
  if crf == "dense":
    config.crf.update(kernel="gaussian_bilateral", radius=DENSE_RADIUS)
  return config


def guided_frozen(config: ConfigDict, base: str) -> ConfigDict:
  """Guidance of the network as it is, frozen."""
  own = {"guided", "guidance"} & {*config.order}
  section = config.stages.guidance if own else config.stages.detail
  config = guided(config, base)
  config.order = ("guidance",)
  config.stages.guidance = section.copy_and_resolve_references()
  config.stages.guidance.steps = config.stages.guided.steps
  return config


def base_views(config: ConfigDict, base: str) -> ConfigDict:
  """The base in six views, their mean."""
  config.order = ("semantic",)
  config.views.update(scales=SCALES, mirror=True, combine="mean")
  return config


GUIDANCE: dict[str, tuple[str, Callable[[ConfigDict, str], ConfigDict]]] = {
  "base_views": ("the base, mean of six views (three scales, mirrored)", base_views),
  "guided_frozen": ("guidance learned on the frozen base", guided_frozen),
  "guided": ("the base trained on together with guidance", guided),
  **{
    f"guided_{combine}": (f"the same, {what} of six views", functools.partial(guided, combine=combine))
    for combine, what in {
      "mean": "mean",
      "max": "maximum",
      "mean_max": "(mean + maximum) / 2",
      "learned": "learned combination",
    }.items()
  },
  "guided_potts": ("guided, then the CRF with Potts compatibility", functools.partial(guided, crf="potts")),
  "guided_crf": (
    "guided, then the CRF with compatibility by the image's classes",
    functools.partial(guided, crf="guidance"),
  ),
  "guided_dense_crf": (
    "guided, then a dense CRF's kernels in a small window, Potts compatibility",
    functools.partial(guided, crf="dense"),
  ),
  "guided_learned_crf": (
    "guided, then the CRF with learned compatibility",
    functools.partial(guided, crf="learned"),
  ),
  "guided_mean_crf": (
    "guided, mean of six views, then the CRF by the image's classes",
    functools.partial(guided, combine="mean", crf="guidance"),
  ),
  "guided_all": (
    "guided, learned combination of six views, then the CRF by the image's classes",
    functools.partial(guided, combine="learned", crf="guidance"),
  ),
}
"""Rows of P3, each with what it is."""
