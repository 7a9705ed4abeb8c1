import dataclasses

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


def test_crossfit_trains_a_network_without_each_fold_as_the_final_one_is_trained(tiny_config):
  changes = {"splits__error_source": "crossfit", "splits__folds": 2}
  semantic, *folds, error, detail, control = plan(
    tiny_config(order=("semantic", "error", "detail", "control"), stages__semantic__steps=7, **changes)
  )
  assert [s.name for s in (semantic, *folds, error, detail)] == [
    "semantic",
    "fold0",
    "fold1",
    "error",
    "detail",
  ]
  for name, stage in zip(("fold0", "fold1"), folds, strict=True):
    other = {"name": name, "source": f"without_{name}", "aside": True, "restarts": True}
    assert stage == dataclasses.replace(semantic, **other)
    assert stage.seed(0) != semantic.seed(0)
  assert error.folds == detail.folds == ("fold0", "fold1")
  assert (semantic.folds, control.folds) == ((), ())


def test_without_branches_no_fold_is_trained(tiny_config):
  stages = plan(tiny_config(order=("semantic", "control"), splits__error_source="crossfit"))
  assert [s.name for s in stages] == ["semantic", "control"]


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"segmenter__init": "x", "splits__error_source": "crossfit"}, "which a given one .*choose another"),
    ({"order": ("semantic", "eror")}, "did you mean 'error'"),
    ({"order": ("semantic", "error", "error")}, "named twice"),
    ({"order": ("error", "detail")}, "no semantic stage"),
    ({"error_branch__prior": "detail"}, "detail stage before the error stage"),
  ],
)
def test_an_impossible_order_is_refused(tiny_config, changes, words):
  with pytest.raises(UserError, match=words):
    plan(tiny_config(**changes))
