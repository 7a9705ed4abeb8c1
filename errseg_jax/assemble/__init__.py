"""From a config to its parts: data set, network, losses. Every name and key is checked on the way."""

from errseg_jax.assemble.adapter import adapter, score_files
from errseg_jax.assemble.crf import crf
from errseg_jax.assemble.data import dataset, pad_value, padding, splits, transform
from errseg_jax.assemble.groups import group_finder, named_groups
from errseg_jax.assemble.network import model, segmenter
from errseg_jax.assemble.sections import check_numbers, construct, known, thresholds, with_defaults
from errseg_jax.assemble.stage_losses import loss, pixel_loss, with_class_weights

__all__ = [
  "adapter",
  "check_numbers",
  "construct",
  "crf",
  "dataset",
  "group_finder",
  "known",
  "loss",
  "model",
  "named_groups",
  "pad_value",
  "padding",
  "pixel_loss",
  "score_files",
  "segmenter",
  "splits",
  "thresholds",
  "transform",
  "with_class_weights",
  "with_defaults",
]
