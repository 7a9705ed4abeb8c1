"""`errseg compare` reads config.json and results.json alone: two small ones per run are enough."""

import json

import pytest

from errseg_jax.cli import main
from errseg_jax.compare import SCORES, Run, short_names, shortened

SCALES = [round(0.001 * i, 3) for i in range(100)]


def system(miou, **iou):
  return {"mIoU": miou, "aAcc": miou + 10, "IoU": iou}


def results_of(miou, **changes):
  return {
    "dataset": "folders",
    "split": "val",
    "num_images": 5,
    "classes": ["wall", "sign"],
    "semantic": system(miou, wall=70.0, sign=None),
    "fused": system(miou + 2, wall=72.5, sign=None),
    "error": {"AUPR_error": 40.0, "AUROC": 90.0, "FPR95": None, "ECE": 1.5},
    "image_level": {"accuracy_mae": 3.25},
    **changes,
  }


def write(folder, config, results=None):
  folder.mkdir()
  (folder / "config.json").write_text(json.dumps(config))
  if results is not None:
    (folder / "results.json").write_text(json.dumps(results))
  return str(folder)


@pytest.fixture
def config():
  return {
    "seed": 0,
    "data": {"name": "folders", "root": "here"},
    "views": {"scales": [1.0]},
    "stages": {"error": {"steps": 4}},
  }


@pytest.fixture
def told(capsys, monkeypatch):
  """(*words) -> what `errseg compare` prints, without line breaks in cells."""
  monkeypatch.setenv("COLUMNS", "200")

  def run(*words):
    capsys.readouterr()
    assert main(["compare", *words]) == 0
    return capsys.readouterr().out

  return run


def row(out, head):
  (line,) = [line for line in out.splitlines() if line.startswith(f"│ {head} ")]
  return [cell.strip() for cell in line.strip("│").split("│")[1:]]


def test_keys_that_differ_and_only_those(config, tmp_path, told):
  first = write(tmp_path / "one", config, results_of(60.0))
  other = config | {"seed": 1, "views": {"scales": SCALES}, "stages": {"error": {"steps": 4, "ema": 0.9}}}
  out = told(first, write(tmp_path / "two", other, results_of(60.0)))
  block = out[: out.index("scores, percent")]
  assert row(block, "seed") == ["0", "1"]
  assert row(block, "stages.error.ema") == ["-", "0.9"]
  assert row(block, "views.scales") == ["[1.0]", shortened(SCALES)]
  assert len(shortened(SCALES)) < 60
  assert "steps" not in block
  assert "data." not in block
  assert "one" in block
  assert str(tmp_path) not in out


def test_scores_and_differences_to_the_first(config, tmp_path, told):
  first = write(tmp_path / "one", config, results_of(60.0))
  out = told(first, write(tmp_path / "two", config, results_of(61.5)), "--classes")
  assert "the configs are the same" in out
  assert row(out, "mIoU, network") == ["60.00", "61.50 (+1.50)"]
  assert row(out, "mIoU, corrected") == ["62.00", "63.50 (+1.50)"]
  assert row(out, "mIoU, detail branch") == ["-", "-"]
  assert row(out, "aAcc, corrected") == ["72.00", "73.50 (+1.50)"]
  assert row(out, "FPR95 of P_ep") == ["-", "-"]
  assert row(out, "ECE of P_ep") == ["1.50", "1.50 (+0.00)"]
  assert row(out, "images") == ["5", "5"]
  assert row(out, "split") == ["val", "val"]
  assert row(out, "wall") == ["72.50", "72.50 (+0.00)"]
  assert row(out, "sign") == ["-", "-"]
  assert "note:" not in out
  assert "nan" not in out.lower()


def test_classes_of_a_run_without_correction_are_the_networks_own(config, tmp_path, told):
  results = results_of(60.0)
  del results["fused"]
  out = told(write(tmp_path / "a", config, results), write(tmp_path / "b", config, results), "--classes")
  assert row(out, "wall")[0] == "70.00"


def test_a_run_that_was_not_evaluated(config, tmp_path, told):
  first = write(tmp_path / "one", config)
  out = told(first, write(tmp_path / "two", config, results_of(60.0)))
  assert row(out, "mIoU, network") == ["-", "60.00"]
  assert f"note: not evaluated, `errseg evaluate --workdir=W` scores it: {first}" in out
  assert "different images" not in out


@pytest.mark.parametrize(
  ("config_change", "results_change"),
  [
    ({}, {"split": "test"}),
    ({}, {"num_images": 6}),
    ({}, {"classes": ["wall"]}),
    ({"data": {"name": "folders", "root": "here", "downscale": 2}}, {}),
  ],
)
def test_scores_of_different_images_are_told_of(config, tmp_path, told, config_change, results_change):
  first = write(tmp_path / "one", config, results_of(60.0))
  same = write(tmp_path / "moved", config | {"data": {"name": "folders", "root": "there"}}, results_of(1.0))
  assert "different images" not in told(first, same)
  second = write(tmp_path / "two", config | config_change, results_of(60.0, **results_change))
  assert (
    f"note: scores are of different images, so differences mean little: {second} against {first}"
    in told(first, same, second)
  )


def test_json(config, tmp_path, told):
  second = write(tmp_path / "two", config | {"seed": float("inf")}, results_of(61.0))
  out = told(write(tmp_path / "one", config, results_of(60.0)), second, "--json", "--classes")
  content = json.loads(out, parse_constant=pytest.fail)
  assert content["config"] == {"seed": [0, "inf"]}
  one, two = content["runs"]
  assert one["scores"].keys() == SCORES.keys()
  assert two["scores"]["mIoU, network"] == 61.0
  assert two["to_first"]["mIoU, network"] == 1.0
  assert two["to_first"]["FPR95 of P_ep"] is None
  assert two["IoU"] == {"wall": 72.5, "sign": None}
  assert content["notes"] == []


def test_folders_of_one_name_are_told_apart():
  assert short_names([Run(name, {}, {}) for name in ("a/run", "b/other")]) == ["run", "other"]
  assert short_names([Run(name, {}, {}) for name in ("a/run", "b/run")]) == ["a/run", "b/run"]
  assert short_names([Run(name, {}, {}) for name in (".", "b")]) == [".", "b"]


def test_markup_in_a_file_is_text(config, tmp_path, told):
  words = [write(tmp_path / str(i), config | {"init": f"[red]{i}[/nothing]"}) for i in range(2)]
  assert row(told(*words), "init") == ["[red]0[/nothing]", "[red]1[/nothing]"]


def test_mistakes_are_one_line(config, tmp_path, capsys):
  run = write(tmp_path / "one", config, [])
  good = write(tmp_path / "two", config)
  for words, expected in (
    ([good], "two workdirs or more"),
    ([good, str(tmp_path)], f"{tmp_path} is not the workdir of a run"),
    ([good, run], "results.json is damaged"),
    ([good, good, "--config.seed=1"], "leave out --config.seed=1"),
  ):
    capsys.readouterr()
    assert main(["compare", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert expected in error
