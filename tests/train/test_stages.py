import pytest

from errseg_jax.errors import UserError
from errseg_jax.train.stages import plan


def test_the_error_branch_runs_in_the_detail_stage_only_where_it_is_trained(tiny_config):
  def wanted(**changes):
    return {s.name: s.wanted for s in plan(tiny_config(**changes))}

  assert wanted()["detail"] == ("error", "detail")
  assert wanted(order=("semantic", "detail", "error"))["detail"] == ("detail",)


def test_a_given_network_needs_no_semantic_stage(tiny_config):
  stages = plan(tiny_config(segmenter__init="somewhere"))
  assert [s.name for s in stages] == ["error", "detail"]


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"order": ("semantic", "eror")}, "did you mean 'error'"),
    ({"order": ("semantic", "error", "error")}, "named twice"),
    ({"order": ("error", "detail")}, "no semantic stage"),
    ({"error_branch__prior": "detail"}, "detail stage before the error stage"),
  ],
)
def test_an_impossible_order_is_refused(tiny_config, changes, words):
  with pytest.raises(UserError, match=words):
    plan(tiny_config(**changes))
