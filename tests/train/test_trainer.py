import numpy as np
import pytest

from errseg_jax.assemble import with_defaults
from errseg_jax.errors import UserError
from errseg_jax.metrics.calibration import Calibration
from errseg_jax.models.heads.dpc_cells import read_cell
from errseg_jax.train.given import check_given
from errseg_jax.train.initialise import initial_variables
from errseg_jax.train.state import split
from errseg_jax.train.trainer import Trainer
from errseg_jax.train.workdir import claim


def detail_loss(config, workdir):
  trainer = Trainer(with_defaults(config), workdir)
  stage = next(s for s in trainer.stages if s.name == "detail")
  frozen = split(initial_variables(trainer.model, trainer.config), stage.groups)[1]
  return trainer.make_loss(stage, frozen), trainer.losses["detail"]


def test_a_detail_loss_that_goes_by_p_ep_gets_it_calibrated(tiny_config, tmp_path):
  loss, plain = detail_loss(tiny_config(), tmp_path)
  assert plain.calibration == Calibration()
  assert np.isfinite([loss.calibration.scale, loss.calibration.offset]).all()
  assert loss.calibration != plain.calibration


@pytest.mark.parametrize(
  "changes",
  [
    {"choose__calibration": "none"},
    {"detail_loss__weights": "all"},
    {"order": ("semantic", "detail", "error")},
    # Fitted on what is reported, it would teach the branch about those images.
    {"splits__choose": "val", "train__select": "last"},
  ],
)
def test_elsewhere_it_stays_raw(tiny_config, tmp_path, changes):
  loss, plain = detail_loss(tiny_config(**changes), tmp_path)
  assert loss == plain


@pytest.mark.parametrize("source", ["train", "strong"])
def test_a_given_network_may_teach_by_its_errors_on_images_it_knows(tiny_config, tmp_path, source):
  claim(tmp_path, with_defaults(tiny_config(splits__error_source="crossfit", splits__choose="")))
  own = {"segmenter__init": str(tmp_path), "splits__choose": ""}
  check_given(with_defaults(tiny_config(splits__error_source=source, **own)))


@pytest.mark.parametrize("choose", ["", "choose"])
def test_a_given_network_that_knows_the_held_out_images_is_refused(tiny_config, tmp_path, choose):
  claim(tmp_path, with_defaults(tiny_config(splits__choose=choose)))
  own = {"segmenter__init": str(tmp_path), "splits__choose": choose}
  with pytest.raises(UserError, match=r"splits\.error_source='train', this config has 'holdout'"):
    check_given(with_defaults(tiny_config(splits__error_source="holdout", **own)))


def test_the_same_images_in_another_size_are_the_same_images(tiny_config, tmp_path):
  claim(tmp_path, with_defaults(tiny_config(splits__choose="")))
  own = {"segmenter__init": str(tmp_path), "splits__choose": "", "data__downscale": 2}
  with pytest.raises(UserError, match=r"splits\.choose_fraction=0\.1, this config has 0\.3"):
    check_given(with_defaults(tiny_config(splits__choose_fraction=0.3, **own)))


def test_a_given_network_is_found_from_any_folder(trained, tiny_config, tmp_path, monkeypatch):
  monkeypatch.chdir(trained.parent)
  config = tiny_config(segmenter__init=trained.name)
  assert Trainer(with_defaults(config), tmp_path).config.segmenter.init == str(trained)


def test_a_cell_s_file_is_read_into_the_config(tiny_config, tmp_path):
  cell = '[{"op": "conv", "kernel": 1, "input": -1}]'
  (tmp_path / "cell.json").write_text(cell)
  head = {"name": "dpc", "features": 8, "low_features": 4, "cell": str(tmp_path / "cell.json")}
  trainer = Trainer(with_defaults(tiny_config(segmenter__head=head)), tmp_path / "run")
  assert trainer.config.segmenter.head.cell == cell
  assert len(read_cell(cell)) == 1


def test_fusions_that_all_ask_a_branch_that_does_not_train_are_refused(tiny_config, tmp_path):
  config = tiny_config(order=("semantic", "detail"), choose__fusions=("mask",))
  with pytest.raises(UserError, match="all ask the error branch"):
    Trainer(with_defaults(config), tmp_path)
