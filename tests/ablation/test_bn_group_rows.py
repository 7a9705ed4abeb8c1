"""Rows of groups of batch normalisation: what they train, and their table."""

import json

import pytest

from errseg_jax.ablation import run, tables
from errseg_jax.ablation.bn_group_rows import SIZES, WHOLE
from errseg_jax.ablation.shared import in_common
from errseg_jax.assemble import with_defaults
from errseg_jax.errors import UserError
from errseg_jax.train.stages import plan


@pytest.fixture(scope="module")
def config(tiny_config):
  return with_defaults(tiny_config())


def test_the_family_is_its_rows_and_the_base(config):
  assert run.chosen(["bn_groups"], config) == ["base", *SIZES]
  assert not {*SIZES} & {*run.chosen((), config)}
  given = config.copy_and_resolve_references()
  given.segmenter.init = "elsewhere"
  with pytest.raises(UserError, match="leave it out"):
    run.chosen(["bn_groups"], given)


@pytest.mark.parametrize("name", SIZES)
def test_a_row_trains_the_semantic_stage_with_its_groups(name, config, tmp_path):
  before = config.to_json()
  row = run.row_config(config, tmp_path, 0, name)
  (stage,) = plan(row)
  assert (stage.kind, stage.steps) == ("semantic", config.stages.semantic.steps)
  assert [row.segmenter[part].bn_group_size for part in ("backbone", "head")] == [SIZES[name]] * 2
  assert not row.segmenter.init
  assert config.to_json() == before
  base = run.row_config(config, tmp_path, 0, "base")
  assert in_common(row, base) == (["semantic"] if name == WHOLE else [])


def test_a_part_without_batch_normalisation_stays_as_it_is(config, tmp_path):
  config = config.copy_and_resolve_references()
  del config.segmenter.backbone.bn_group_size
  row = run.row_config(config, tmp_path, 0, "bn_group_2")
  assert "bn_group_size" not in row.segmenter.backbone
  assert row.segmenter.head.bn_group_size == 2
  del config.segmenter.head.bn_group_size
  with pytest.raises(
    UserError, match=r"backbone.name='resnet' and head.name='deeplabv3plus' have no bn_group"
  ):
    run.ablate(config, tmp_path / "W", ["bn_group_2"], 1)


def test_a_group_that_does_not_divide_the_batch_is_refused_before_anything_trains(tiny_config, tmp_path):
  config = with_defaults(tiny_config(stages__semantic__batch_size=4))
  with pytest.raises(UserError, match=r"row 'bn_group_8': .*backbone.bn_group_size=8 .*batch_size=4"):
    run.ablate(config, tmp_path / "W", ["bn_groups"], 1)
  assert not (tmp_path / "W").exists()


def test_the_table_pairs_seeds():
  rows = {
    "bn_group_2": {"seeds": {"0": {"mIoU": 50.0}, "1": {"mIoU": 54.0}}},
    WHOLE: {"seeds": {"0": {"mIoU": 49.0}, "1": {"mIoU": 52.0}}},
  }
  assert tables.bn_groups(rows).rows == (
    ("2", "52.00 ± 2.83", "+1.50 ± 0.71", "2"),
    ("all", "50.50 ± 2.12", "-", "2"),
  )
  del rows[WHOLE]["seeds"]["1"]
  assert tables.bn_groups(rows).rows[0] == ("2", "52.00 ± 2.83", "-", "2")
  assert tables.bn_groups({}).markdown() == ""


@pytest.mark.slow
def test_groups_are_trained_and_told(config, tmp_path):
  assert run.ablate(config, tmp_path, ["bn_group_2", WHOLE], 1) == {}
  rows = json.loads((tmp_path / "ablation.json").read_text())["rows"]
  whole, base = rows[WHOLE]["seeds"]["0"], rows["base"]["seeds"]["0"]
  assert whole["mIoU"] == base["mIoU"]  # the config's own
  gain = rows["bn_group_2"]["seeds"]["0"]["mIoU"] - whole["mIoU"]
  page = (tmp_path / "ablation.md").read_text()
  assert "## Groups of batch normalisation" in page
  assert f"| {gain:+.2f} |" in page
