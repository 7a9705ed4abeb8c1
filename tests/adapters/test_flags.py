"""Adapters by flags: the name first, wherever it stands."""

import pytest

from errseg_jax.assemble import adapter, with_defaults
from errseg_jax.config import default_config
from errseg_jax.config_flags import override
from errseg_jax.errors import UserError


def test_the_name_brings_the_keys():
  config = with_defaults(default_config())
  flags = ["--config.segmenter.adapter.values=logits", "--config.segmenter.adapter.name=onnx"]
  override(config, [*flags, "--config.segmenter.adapter.mean=(1.0,2.0,3.0)"])
  found = adapter(config)
  assert (found.values, found.mean) == ("logits", (1.0, 2.0, 3.0))
  override(config, ["--config.segmenter.adapter.name=saved"])
  assert config.segmenter.adapter.to_dict().keys() == {
    "name",
    "folder",
    "values",
    "channels_first",
    "align_corners",
  }
  override(config, ["--config.segmenter.adapter.folder=X", "--config.segmenter.adapter.name=saved"])
  override(config, ["--config.segmenter.adapter.name=saved"])
  assert config.segmenter.adapter.folder == "X"


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("folder=X", "name the adapter first"),
    ("name=tensorflow", "'tensorflow' is unknown"),
  ],
)
def test_mistakes_are_one_line(flag, message):
  with pytest.raises(UserError, match=message):
    override(with_defaults(default_config()), [f"--config.segmenter.adapter.{flag}"])


def test_no_adapter_is_none():
  assert adapter(default_config()) is None
