import numpy as np
import pytest

from errseg_jax import assemble
from errseg_jax.config import default_config, paper
from errseg_jax.errors import UserError
from errseg_jax.losses import DetailLoss, ErrorLoss, SemanticLoss
from errseg_jax.models.crf import GuidanceCRF
from errseg_jax.pixel_losses import class_weights


def refused(call, *words):
  with pytest.raises(UserError) as caught:
    call()
  assert "\n" not in str(caught.value)
  for word in words:
    assert word in str(caught.value)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"segmenter__backbone__name": "resnett"}, ("resnett", "did you mean 'resnet'", "squeezenet")),
    ({"segmenter__head__name": "fcm"}, ("fcm", "did you mean 'fcn'", "deeplabv3plus")),
    ({"segmenter__head": {"name": "gau", "gate": "tanh"}}, ("head.gate", "sigmoid, relu")),
    ({"segmenter__backbone__depth": 19}, ("depth=19", "18", "101")),
    ({"segmenter__backbone__output_stride": 4}, ("output_stride=4", "8, 16, 32")),
    ({"segmenter__head__feature": 3}, ("segmenter.head", "did you mean 'features'")),
    ({"segmenter__channels": "bgra"}, ("channels", "rgb, bgr")),
    ({"error_branch__prior": "mps"}, ("prior", "did you mean 'msp'")),
    ({"error_branch__gate": "tanh"}, ("gate", "sigmoid, relu")),
    ({"detail_branch__widths": (3,)}, ("detail_branch", "features")),
    ({"detail_branch__encoder": "none"}, ("encoder", "missing, all")),
    ({"dtype": "float16"}, ("dtype", "bfloat16")),
  ],
)
def test_an_unknown_name_or_key_lists_the_known(tiny_config, changes, words):
  refused(lambda: assemble.model(tiny_config(**changes), 3), *words)


def test_losses_take_their_sections(tiny_config):
  config = tiny_config(error_loss={"w2": 3.0}, detail_loss={"weights": "mask", "t": 0.4})
  assert assemble.loss(config, "error") == ErrorLoss(w2=3.0)
  assert assemble.loss(config, "detail") == DetailLoss("mask", 0.4)
  refused(lambda: assemble.loss(tiny_config(error_loss={"w9": 1}), "error"), "w9", "w3_min")
  refused(lambda: assemble.loss(tiny_config(detail_loss={"weights": "hard"}), "detail"), "mask, soft, all")


def test_class_balance_counts_the_labels_of_the_stage(tiny_config):
  config = tiny_config(detail_loss={"balance": 1.0}, semantic_loss={"balance": 0.5})
  sources = {
    "semantic": [{"label": np.array([[0, 0, 1, 2]], np.uint8)}],
    "branches": [{"label": np.array([[0, 0, 0, 0, 1, 1, 2, 255]], np.uint8)}],
  }
  full = assemble.with_class_weights(config, sources, 3)
  weights = class_weights(np.array([4, 2, 1]) / 7, 1.0)
  assert assemble.loss(full, "detail").class_weights == weights
  assert assemble.model(full, 3).detail_weights == weights
  for stage in ("semantic", "control"):
    assert assemble.loss(full, stage) == SemanticLoss(0.5, class_weights(np.array([2, 1, 1]) / 4, 0.5))
  assert not config.detail_loss.get("class_weights")
  plain = tiny_config(detail_loss__balance=0.0)
  assert assemble.with_class_weights(plain, sources, 3).to_dict() == plain.to_dict()


def test_class_weights_by_hand_stay_and_must_fit(tiny_config):
  config = tiny_config(detail_loss={"balance": 1.0, "class_weights": (1.0, 2.0)})
  assert assemble.with_class_weights(config, {}, 2).detail_loss.class_weights == (1.0, 2.0)
  refused(lambda: assemble.model(config, 3), "class_weights", "2 numbers for 3 classes")


def test_where_detail_comes_first_max_probability_stands_in(tiny_config):
  assert not assemble.loss(tiny_config(), "detail").max_probability
  assert assemble.loss(tiny_config(order=("semantic", "detail", "error")), "detail").max_probability


def test_only_the_branches_see_strong_views_and_only_where_asked_to(tiny_config):
  plain = assemble.transform(tiny_config())
  assert assemble.transform(tiny_config(), "branches") == plain
  config = tiny_config(splits__error_source="strong", splits__strength=0.5)
  assert assemble.transform(config) == assemble.transform(config, "semantic") == plain
  assert assemble.transform(config, "branches") == plain.stronger(0.5)


def test_the_paper_s_setting_is_one_call_away():
  config = default_config()
  config.order = ("semantic", "detail", "error")
  config = paper(config)
  assert config.order == ("semantic", "error", "detail")
  assert assemble.loss(config, "error") == ErrorLoss(1.0, 1.5, None, 0.001, 0.95)
  assert assemble.loss(config, "detail") == DetailLoss("mask", 0.7)
  model = assemble.model(config, 19)
  assert model.error.prior == "none"
  assert not model.detail.residual
  assert (config.choose.fusions, config.choose.thresholds) == (("mask",), (0.7,))


@pytest.mark.parametrize("section", ["semantic_loss", "detail_loss"])
@pytest.mark.parametrize(("weights", "why"), [((1.0, 0.0, 2.0), "positive"), ((1.0, 2.0), "2 numbers for 3")])
def test_class_weights_that_would_spoil_labels_are_refused(tiny_config, section, weights, why):
  refused(lambda: assemble.model(tiny_config(**{f"{section}__class_weights": weights}), 3), why)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"kernel": "guide"}, ("config.crf.kernel", "did you mean 'guided'", "gaussian_bilateral")),
    ({"compatibility": "potts"}, ("config.crf.compatibility", "guidance, learned")),
    ({"lambda": 1.0}, ("config.crf", "'lambda'", "lam")),
    ({"iterations": -1}, ("config.crf.iterations=-1", "whole number from 0")),
    ({"iterations": 1.5}, ("config.crf.iterations=1.5", "whole number")),
    ({"radius": 0}, ("config.crf.radius=0", "from 1")),
    ({"subsample": 0}, ("config.crf.subsample=0", "from 1")),
    ({"eps": 0.0}, ("config.crf.eps=0.0", "above 0")),
    ({"sigma_rgb": float("nan")}, ("config.crf.sigma_rgb=nan", "above 0")),
    ({"alpha": -0.5}, ("config.crf.alpha=-0.5", "from 0")),
    ({"lam": float("inf")}, ("config.crf.lam=inf", "from 0")),
    ({"bilateral": 1.2}, ("config.crf.bilateral=1.2", "at most 1")),
  ],
)
def test_a_crf_is_checked(changes, words):
  config = default_config()
  config.crf = changes
  refused(lambda: assemble.crf(config), *words)


def test_a_crf_is_there_where_it_iterates():
  config = assemble.with_defaults(default_config())
  assert assemble.crf(config) is None
  config.crf.iterations, config.crf.lam = 5, 3
  assert assemble.crf(config) == GuidanceCRF(iterations=5, lam=3)
