"""A backbone that another run trained."""

import jax
import numpy as np
import pytest

from errseg_jax import assemble
from errseg_jax.errors import UserError
from errseg_jax.train.given import backbone_of
from errseg_jax.train.initialise import initial_variables


def test_the_backbone_of_a_run_starts_another_with_other_classes(trained, tiny_config):
  config = assemble.with_defaults(tiny_config(segmenter__backbone_weights=str(trained)))
  variables = initial_variables(assemble.model(config, 7), config)
  theirs = backbone_of(trained)
  for kind, tree in theirs.items():
    assert jax.tree.leaves(tree)
    jax.tree.map(np.testing.assert_array_equal, variables[kind]["segmenter"]["backbone"], tree)
  config.segmenter.channels = "bgr"
  with pytest.raises(UserError, match=r"was trained with segmenter\.channels=rgb, this config has bgr"):
    initial_variables(assemble.model(config, 7), config)
