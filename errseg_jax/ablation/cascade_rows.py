"""P2's cascade, and the single-branch network it is held against: is staged training needed at all?

Both train from the start, on the config's backbone as it is, for the steps of the semantic network and of both
branches together.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from errseg_jax import config as configs
from errseg_jax.ablation.alternatives import branch_steps


def cascaded(config: ConfigDict, base: str) -> ConfigDict:
  """Coarse, attention and refine branches trained end to end."""
  stage = whole_stage(config)
  config = configs.cascade(config.copy_and_resolve_references(), width(config))
  config.stages.cascade = stage
  return config


def with_fine_loss(config: ConfigDict, base: str) -> ConfigDict:
  """The cascade, its fine network trained on every pixel too."""
  config = cascaded(config, base)
  config.cascade_loss.fine = 1.0
  return config


def pyramid(config: ConfigDict, base: str) -> ConfigDict:
  """The fine network alone, as the head of a semantic network."""
  stage = whole_stage(config)
  config = config.copy_and_resolve_references()
  config.segmenter.head = {"name": "pspnet", "features": width(config)}
  config.order = ("semantic",)
  config.stages.semantic = stage
  return config


def whole_stage(config: ConfigDict) -> ConfigDict:
  """The semantic stage, as long as all of the config's stages."""
  stage = config.stages.semantic.copy_and_resolve_references()
  stage.steps += branch_steps(config)
  return stage


def width(config: ConfigDict) -> int:
  """Channels of the pyramid's convolution: 512, as published, beside a head of 256, and in proportion."""
  return 2 * (config.segmenter.head.get("features") or 256)


CASCADE = {"cascade": cascaded, "cascade_fine": with_fine_loss, "pyramid": pyramid}
