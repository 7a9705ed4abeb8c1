import dataclasses
import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from errseg_jax import submit as module
from errseg_jax.cli import main
from errseg_jax.data.images import write_label_png

NAMES = {
  "cityscapes": ("berlin_000000_000019_leftImg8bit", "bonn_000003_000019_leftImg8bit"),
  "ade20k": ("ADE_test_00000001", "ADE_test_00000002"),
  "voc": ("2008_000006", "2008_000011"),
}
ARCHIVE = {"cityscapes": "all.zip", "ade20k": "all.zip", "voc": "all.tgz"}
WRITTEN = {
  "cityscapes": ["berlin_000000_000019.png", "bonn_000003_000019.png"],
  "ade20k": ["ADE_test_00000001.png", "ADE_test_00000002.png"],
  "voc": [f"results/VOC2012/Segmentation/comp6_test_cls/{name}.png" for name in NAMES["voc"]],
}


@pytest.fixture(params=NAMES)
def case(request, tmp_path, monkeypatch):
  """(server, folder of images and predictions): two small images, each class in the labels."""
  name = request.param
  server = module.SERVERS[name]
  monkeypatch.setitem(
    module.SERVERS, name, dataclasses.replace(server, count=2, size=(20, 30) if server.size else None)
  )
  images, predictions = tmp_path / "images", tmp_path / "predictions"
  predictions.mkdir()
  for k, stem in enumerate(NAMES[name]):
    folder = images / stem.split("_")[0] if name == "cityscapes" else images
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 20)).save(folder / f"{stem}.{'png' if name == 'cityscapes' else 'jpg'}")
    label = (np.arange(600).reshape(20, 30) + k).astype(np.int64) % server.info.num_classes
    for kind, shift in (("corrected", 0), ("labels", 1)):
      write_label_png(
        predictions / f"{stem}_{kind}.png",
        np.roll(label, shift, 1).astype(np.uint8),
        server.info.palette,
      )
  return name, tmp_path


def run(name, folder, *flags):
  given = (f"--predictions={folder / 'predictions'}", f"--images={folder / 'images'}")
  return main(
    ["submit", f"--to={name}", *given, f"--out={folder / 'out' / ARCHIVE.get(name, 'all.zip')}", *flags]
  )


def content(path):
  """{name: bytes} of an archive, in its order."""
  if path.suffix == ".zip":
    with zipfile.ZipFile(path) as archive:
      return {name: archive.read(name) for name in archive.namelist()}
  with tarfile.open(path, "r:gz") as archive:
    return {member.name: archive.extractfile(member).read() for member in archive.getmembers()}


@pytest.mark.parametrize("labels", ["corrected", "labels"])
def test_the_archive_has_the_servers_names_and_ids(case, labels):
  name, folder = case
  assert run(name, folder, f"--labels={labels}") == 0
  server = module.SERVERS[name]
  found = content(folder / "out" / ARCHIVE[name])
  assert list(found) == WRITTEN[name]
  for stem, png in zip(NAMES[name], found.values(), strict=True):
    stored = Image.open(io.BytesIO(png))
    assert stored.mode == ("P" if name == "voc" else "L")
    given = np.asarray(Image.open(folder / f"predictions/{stem}_{labels}.png"))
    np.testing.assert_array_equal(np.asarray(stored), np.array(server.ids)[given])
  assert [p.name for p in (folder / "out").iterdir()] == [ARCHIVE[name]]


def test_ids_are_those_of_the_servers():
  assert module.SERVERS["cityscapes"].ids[:3] == (7, 8, 11)
  assert module.SERVERS["cityscapes"].ids[-1] == 33
  assert module.SERVERS["ade20k"].ids == tuple(range(1, 151))
  assert module.SERVERS["voc"].ids == tuple(range(21))


def _small(folder, stem, predictions):
  Image.new("L", (15, 10)).save(predictions / f"{stem}_corrected.png")


def _beyond(folder, stem, predictions):
  Image.new("L", (30, 20), 255).save(predictions / f"{stem}_corrected.png")


def _renamed(folder, stem, predictions):
  (image,) = (folder / "images").rglob(f"{stem}.*")
  image.rename(image.with_stem("foo"))
  (predictions / f"{stem}_corrected.png").rename(predictions / "foo_corrected.png")


def _one_more(folder, stem, predictions):
  (image,) = (folder / "images").rglob(f"{stem}.*")
  image.with_name(f"more{image.suffix}").write_bytes(image.read_bytes())


@pytest.mark.parametrize(
  ("harm", "message"),
  [
    (lambda folder, stem, predictions: (predictions / f"{stem}_corrected.png").unlink(), "errseg predict"),
    (_small, "is 15x10, and"),
    (_beyond, "label value 255 is no class"),
    (_renamed, "no test image of"),
    (_one_more, ": 3 images, and the test split"),
    (
      lambda folder, stem, predictions: [p.unlink() for p in (folder / "images").rglob("*.*g")],
      "holds no image",
    ),
  ],
)
def test_what_the_server_would_refuse_is_never_written(case, harm, message, capsys):
  name, folder = case
  harm(folder, NAMES[name][1], folder / "predictions")
  assert run(name, folder) == 2
  assert message in capsys.readouterr().err
  assert not list((folder / "out").glob("*")) or not (folder / "out").exists()


def test_nothing_is_overwritten_and_flags_are_checked(case, capsys):
  name, folder = case
  assert run(name, folder) == 0
  assert run(name, folder) == 2
  assert "exists" in capsys.readouterr().err
  assert run("coco", folder) == 2
  assert "known: cityscapes, ade20k, voc" in capsys.readouterr().err
  assert main(["submit", f"--to={name}"]) == 2
  assert "--predictions=DIR is needed" in capsys.readouterr().err
  assert main(["submit", f"--predictions={folder}"]) == 2
  assert "--to=NAME is needed" in capsys.readouterr().err
  capsys.readouterr()
  assert run(name, folder, "--labels=all", f"--out={folder / 'x.zip'}") == 2
  assert "--labels=all must be one of" in capsys.readouterr().err
  assert run(name, folder, f"--out={folder / 'x.tar'}") == 2
  assert f"must end in {'.tgz or .tar.gz' if name == 'voc' else '.zip'}" in capsys.readouterr().err


def test_a_list_names_the_test_images_among_others(case, capsys):
  """VOC's lie among all of JPEGImages."""
  name, folder = case
  _one_more(folder, NAMES[name][0], folder / "predictions")
  listed = folder / "test.txt"
  assert run(name, folder, f"--list={listed}") == 2
  assert "test.txt: no such file" in capsys.readouterr().err
  listed.write_text("\n".join((*NAMES[name], "nowhere")))
  assert run(name, folder, f"--list={listed}") == 2
  assert "'nowhere' is no image of" in capsys.readouterr().err
  listed.write_text("\n".join(NAMES[name]) + "\n")
  assert run(name, folder, f"--list={listed}") == 0
  assert list(content(folder / "out" / ARCHIVE[name])) == WRITTEN[name]
