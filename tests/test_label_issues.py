"""label-issues on a finished run, as a user would call it, and its parts."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from errseg_jax.cli import main
from errseg_jax.label_issues import AGREES, Found, find_issues, region_score

FILES = ["images.csv", "label_issues.csv", "label_issues.html", "label_issues.json"]


def maps(seed=0, size=(40, 60)):
  """Given and predicted labels of three classes, and evidence where they differ."""
  rng = np.random.default_rng(seed)
  given = np.kron(rng.integers(0, 3, (size[0] // 5, size[1] // 5)), np.ones((5, 5))).astype(np.uint8)
  predicted = np.kron(rng.integers(0, 3, (size[0] // 10, size[1] // 10)), np.ones((10, 10))).astype(np.uint8)
  evidence = np.where(given != predicted, rng.uniform(0, 9, size), 0).astype(np.float32)
  return given, predicted, evidence


def row(given, predicted, evidence):
  labelled, against = (given != 255).sum(), ((given != predicted) & (given != 255)).sum()
  values = {"labelled": labelled, "contradicted": against, "quality": np.float32(0.5)}
  return {"label": given, "predicted": predicted, "evidence": evidence, **values}


def test_a_region_is_of_one_given_and_one_predicted_class():
  given, predicted = np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint8)
  predicted[2:8, 3:12] = 2  # contradicts class 0 ...
  given[2:8, 3:6] = 1  # ... but here class 1
  given[:, 25:] = 255
  predicted[:, 20:] = 1  # nothing beyond column 25: no label there
  evidence = np.where(given != predicted, 5.0, 0.0).astype(np.float32)
  evidence[2:8, 3:6] = 7.0
  found = {(i.given, i.predicted): i for i in find_issues("a", given, predicted, evidence, 3)}
  assert found.keys() == {(0, 2), (1, 2), (0, 1)}
  assert found[0, 2].box == (slice(2, 8), slice(6, 12))
  assert found[0, 1].box == (slice(0, 20), slice(20, 25))
  assert (found[1, 2].pixels, found[1, 2].evidence) == (18, 7.0)
  assert found[1, 2].score == pytest.approx(7.0 * np.log(18))
  assert AGREES not in {i.given for i in found.values()}


def test_odds_count_more_than_area_and_a_speck_counts_nothing():
  assert region_score(6.0, 100) > region_score(3.0, 2000)
  assert region_score(6.0, 200) > region_score(6.0, 100)
  assert region_score(9.0, 1) == 0


def test_the_heap_keeps_the_best_of_all_images():
  few, many = Found(5), Found(10**6)
  for i in range(20):
    for found in (few, many):
      found.add(f"image{i}", row(*maps(i)), 3)
  assert len(few.heap) == 5 < len(many.heap) == many.regions == few.regions
  assert few.ranked() == many.ranked()[:5]
  scores = [issue.score for issue in many.ranked()]
  assert scores == sorted(scores, reverse=True)


@pytest.fixture(scope="module")
def listed(trained, tmp_path_factory):
  """The output of the command on the validation images."""
  out = tmp_path_factory.mktemp("issues") / "out"
  assert main(["label-issues", f"--workdir={trained}", "--split=val", f"--out={out}", "--top=7"]) == 0
  return out


def table(path):
  with path.open(newline="") as file:
    return list(csv.DictReader(file))


def test_tables_are_ranked_and_agree(listed):
  assert sorted(p.name for p in listed.iterdir()) == FILES
  rows, content = table(listed / "label_issues.csv"), json.loads((listed / "label_issues.json").read_text())
  assert (content["split"], content["by"], content["num_images"]) == ("val", "max_probability", 5)
  assert 0 < len(rows) <= 7 <= max(7, content["regions"])
  assert [{k: str(v) for k, v in issue.items()} for issue in content["issues"]] == rows
  assert [int(r["rank"]) for r in rows] == list(range(1, len(rows) + 1))
  scores = [float(r["score"]) for r in rows]
  assert scores == sorted(scores, reverse=True)
  assert all(r["given"] != r["predicted"] for r in rows)
  images = table(listed / "images.csv")
  assert len(images) == 5
  quality = [float(r["quality"]) for r in images]
  assert quality == sorted(quality)
  assert 0 <= quality[0] < 1


def test_the_page_shows_each_region_and_needs_no_network(listed):
  html, rows = (listed / "label_issues.html").read_text(), table(listed / "label_issues.csv")
  assert html.count("<article") == len(rows)
  pictures = re.findall(r"<img src=\"([^\"]*)\"[^>]*alt=\"([^\"]*)\"", html)
  assert len(pictures) == 3 * len(rows) == html.count("<img")
  assert all(uri.startswith("data:image/") and alt for uri, alt in pictures)
  assert "http" not in re.sub(r"<meta http-equiv", "", html)
  assert "<script" not in html


def test_both_rankings_come_from_the_same_command(listed, trained, tmp_path):
  words = ["label-issues", f"--workdir={trained}", "--split=val", f"--out={tmp_path}", "--by=error_map"]
  assert main(words) == 0
  other = json.loads((tmp_path / "label_issues.json").read_text())
  assert other["by"] == "error_map"
  assert other["issues"][:7] != json.loads((listed / "label_issues.json").read_text())["issues"]


def test_a_planted_region_leads_the_list_of_its_image(listed, trained, own_data, tmp_path):
  """The wall of an image is given as sign: the network, which knows walls, finds it."""
  path = own_data / "labels" / "val" / "val_0.png"
  label = np.asarray(Image.open(path)).copy()
  label[label == 1] = 2
  Image.fromarray(label).save(path)
  words = [f"--workdir={trained}", f"--config.data.root={own_data}", f"--out={tmp_path}/o", "--split=val"]
  assert main(["label-issues", *words]) == 0
  first = next(r for r in table(tmp_path / "o" / "label_issues.csv") if r["image"] == "val_0")
  assert (first["given"], first["predicted"]) == ("sign", "wall")
  before, after = (
    {r["image"]: float(r["quality"]) for r in table(f / "images.csv")} for f in (listed, tmp_path / "o")
  )
  assert after.pop("val_0") < before.pop("val_0")
  assert after == before


def test_images_without_labels_are_counted_and_passed_over(trained, own_data, tmp_path):
  folder = own_data / "labels" / "val"
  (folder / "val_1.png").unlink()
  Image.fromarray(np.full((32, 48), 255, np.uint8)).save(folder / "val_2.png")
  words = [f"--workdir={trained}", f"--config.data.root={own_data}", f"--out={tmp_path}/o", "--split=val"]
  assert main(["label-issues", *words]) == 0
  content = json.loads((tmp_path / "o" / "label_issues.json").read_text())
  assert [content[k] for k in ("num_images", "unlabelled", "unpaired")] == [3, 1, 1]
  assert {r["image"] for r in table(tmp_path / "o" / "images.csv")} == {"val_0", "val_3", "val_4"}


@pytest.mark.parametrize(
  ("words", "expected"),
  [
    (["--top=0"], "--top=0"),
    (["--top=many"], "--top=many"),
    (["--by=entropy"], "max_probability"),
    (["--split=nowhere"], "nowhere"),
    (["--out={file}"], "name another folder"),
  ],
)
def test_mistakes_are_one_line_and_overwrite_nothing(trained, tmp_path, capsys, words, expected):
  (tmp_path / "file").write_text("mine")
  out = f"--out={tmp_path / 'o'}"
  words = [out, *(w.format(file=tmp_path / "file") for w in words)]
  assert main(["label-issues", f"--workdir={trained}", *words]) == 2
  error = capsys.readouterr().err
  assert error.startswith("errseg: ")
  assert expected in error
  assert error.count("\n") == 1
  assert (tmp_path / "file").read_text() == "mine"
  assert not list((tmp_path / "o").glob("*"))


def test_without_an_error_branch_the_other_ranking_serves(trained, tmp_path, capsys):
  run = tmp_path / "run"
  shutil.copytree(trained, run)
  config = json.loads((run / "config.json").read_text())
  config["order"] = ["semantic"]
  (run / "config.json").write_text(json.dumps(config))
  (run / "choice.json").unlink()
  assert main(["label-issues", f"--workdir={run}", "--split=val", "--by=error_map"]) == 2
  assert "--by=max_probability" in capsys.readouterr().err
  assert main(["label-issues", f"--workdir={run}", "--split=val"]) == 0
  assert sorted(p.name for p in (run / "label_issues").iterdir()) == FILES
