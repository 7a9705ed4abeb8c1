"""Where the published LargeFOV-like classifiers' arrays go."""

from __future__ import annotations

from typing import Any

from errseg_jax.models.rules import Rule

# Fields of the head that differ from its defaults.
FIELDS: dict[str, dict[str, Any]] = {
  "ademxapp": {"hidden_features": 512, "kernel_size": 3, "dilation": 12, "dropout": 0.0}
}
CLASSIFIER = r"(?:arg:)?linear\d+"
"""Layer of ademxapp's classifier, whatever its classes; that of a network trained on ImageNet has the same name."""


def mxnet() -> tuple[Rule, ...]:
  """ademxapp's FCN on model A1, names with or without MXNet's "arg:"."""
  return tuple(
    Rule(f"{theirs}_{kind}", f"{ours}/conv/{array}", layout)
    for theirs, ours in (("(?:arg:)?conv6a", "hidden"), (CLASSIFIER, "classifier"))
    for kind, array, layout in (("weight", "kernel", "conv"), ("bias", "bias", "copy"))
  )
