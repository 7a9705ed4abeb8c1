"""Views and tiles, as a user asks for them: of a trained network, in every command that looks at images."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from errseg_jax.assemble import with_defaults
from errseg_jax.cli import main
from errseg_jax.train.trainer import Trainer

ONE = "--config.num_devices=1"
SIGHT = [
  "--config.views.scales=(0.8,1.0)",
  "--config.views.mirror=True",
  "--config.tiles.size=32",
  "--config.tiles.overlap=0",
]


@pytest.fixture
def run(trained, tmp_path):
  """A copy of the finished run."""
  return shutil.copytree(trained, tmp_path / "run")


def evaluate(run, *flags):
  assert main(["evaluate", f"--workdir={run}", ONE, *flags]) == 0
  return json.loads((run / "results.json").read_text())


def test_scores_say_how_the_images_were_seen(run):
  plain, seen = evaluate(run), evaluate(run, *SIGHT)
  assert not {"views", "tiles"} & plain.keys()
  assert {"scales": [0.8, 1.0], "mirror": True, "combine": "mean", "share": 1.0}.items() <= seen[
    "views"
  ].items()
  assert seen["tiles"] == {"size": 32, "overlap": 0}
  for name in ("semantic", "detail", "fused"):
    assert seen[name]["mIoU"] != plain[name]["mIoU"]
  assert seen["error"]["AUROC"] != plain["error"]["AUROC"]
  assert seen["chosen"] == plain["chosen"]
  assert seen["speed"]["semantic_ms"] > 0


def test_what_is_predicted_and_judged_is_what_is_scored(run, own_data, tmp_path):
  flags = [f"--workdir={run}", ONE, *SIGHT]
  scored = evaluate(run, *SIGHT)
  assert main(["predict", *flags, str(own_data / "images" / "val")]) == 0
  with (run / "predictions" / "predictions.csv").open() as file:
    assert len(list(csv.DictReader(file))) == 5
  right, labelled = 0, 0
  for path in sorted((own_data / "labels" / "val").iterdir()):
    label = np.array(Image.open(path))
    found = np.array(Image.open(run / "predictions" / f"{path.stem}_labels.png"))
    right += (found == label)[label != 255].sum()
    labelled += (label != 255).sum()
  assert 100 * right / labelled == pytest.approx(scored["semantic"]["aAcc"], abs=0.02)
  assert main(["confusion", *flags, "--split=val"]) == 0
  counts = np.array(json.loads((run / "confusion" / "val.json").read_text())["counts"])
  assert 100 * np.trace(counts) / counts.sum() == pytest.approx(scored["semantic"]["aAcc"], abs=0.02)
  assert main(["label-issues", *flags, "--split=val"]) == 0


def test_nothing_is_trained_or_chosen_through_them(tiny_config, tmp_path):
  config = with_defaults(tiny_config(views__mirror=True, tiles__size=32, tiles__overlap=0))
  trainer = Trainer(config, tmp_path)
  for model in (trainer.model, *(trainer.model_of(stage) for stage in trainer.stages)):
    assert model.views is None
    assert model.tiles is None


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    (["--config.tiles.size=100"], "loader.size_multiple=32"),
    (["--config.views.mirror=True", "--config.views.combine=learned"], "errseg tune"),
    (["--config.views.scales=(0,1)"], "above 0"),
  ],
)
def test_mistakes_are_one_line(trained, flags, says, capsys):
  assert main(["evaluate", f"--workdir={trained}", ONE, *flags]) == 2
  (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
  assert says in line
