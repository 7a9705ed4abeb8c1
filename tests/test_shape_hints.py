"""Arrays of public functions have a dtype and a shape in their annotation, and these are right."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
import typing

import jax.numpy as jnp
import numpy as np
import pytest
from beartype import beartype
from jaxtyping import TypeCheckError, jaxtyped

import errseg_jax.losses
import errseg_jax.metrics
from errseg_jax import kernels, pixel_losses, structs
from errseg_jax.adapters import from_function
from errseg_jax.inference import choice, network
from errseg_jax.kernels.terms import Labels
from errseg_jax.losses import error_target, jaccard_loss
from errseg_jax.metrics.calibration import calibrated
from errseg_jax.metrics.errors import error_histogram, error_scores
from errseg_jax.metrics.segmentation import confusion_matrix
from errseg_jax.models import fusion

SHAPED = re.compile(r"\w+\[(?:Array|np\.ndarray), '[^']*'\]")
PACKAGES = (errseg_jax.metrics, errseg_jax.losses)


def public_functions():
  """(name, function): of the listed modules, and methods of their classes."""
  names = [f"{p.__name__}.{found.name}" for p in PACKAGES for found in pkgutil.iter_modules(p.__path__)]
  modules = [importlib.import_module(name) for name in names] + [fusion, pixel_losses, choice]
  for module in modules:
    for name, value in vars(module).items():
      if name.startswith("_") or getattr(value, "__module__", "") != module.__name__:
        continue
      if inspect.isfunction(value):
        yield f"{module.__name__}.{name}", value
      elif inspect.isclass(value):
        for own, method in vars(value).items():
          function = getattr(method, "__func__", method)
          if inspect.isfunction(function) and (not own.startswith("_") or own == "__call__"):
            yield f"{module.__name__}.{name}.{own}", function
  yield from {
    "kernels.fused_sums": kernels.fused_sums,
    "kernels.fused_labels": kernels.fused_labels,
    "adapters.from_function": from_function,
    "inference.network.to_prediction": network.to_prediction,
    "TrainedNetwork.predict": network.TrainedNetwork.predict,
  }.items()


FUNCTIONS = dict(public_functions())


def test_the_list_is_not_empty():
  assert len(FUNCTIONS) > 60
  assert {
    "errseg_jax.metrics.errors.error_scores",
    "errseg_jax.pixel_losses.Focal.values",
  } <= FUNCTIONS.keys()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_array_has_a_shape(name):
  for argument, hint in FUNCTIONS[name].__annotations__.items():
    bare = SHAPED.sub("", hint)
    assert not re.search(r"\b(Array|ndarray)\b", bare), f"{argument}: {hint}"
  typing.get_type_hints(FUNCTIONS[name], include_extras=True)


@pytest.mark.parametrize(
  "struct",
  [structs.Batch, structs.Features, structs.Coarse, structs.Outputs, structs.Prediction, Labels],
  ids=lambda s: s.__name__,
)
def test_every_array_of_a_struct_has_a_shape(struct):
  hints = {field.name: str(field.type) for field in dataclasses.fields(struct)}
  assert any(SHAPED.search(hint) for hint in hints.values())
  assert not [name for name, hint in hints.items() if re.search(r"\b(Array|ndarray)\b", SHAPED.sub("", hint))]


def checked(function):
  """A function of the same code, whose annotations are checked when it is called."""
  parts = (
    function.__code__,
    function.__globals__,
    function.__name__,
    function.__defaults__,
    function.__closure__,
  )
  own = type(function)(*parts)
  own.__annotations__ = typing.get_type_hints(function, include_extras=True)
  return jaxtyped(own, typechecker=beartype)


def logits(*shape):
  return jnp.zeros(shape, jnp.float32)


def ids(*shape):
  return jnp.zeros(shape, jnp.uint8)


def flags(*shape):
  return jnp.zeros(shape, bool)


HISTOGRAM = np.ones((2, 4096), np.int64)
PLATT = {"scale": jnp.float32(1), "offset": jnp.float32(0)}
MAP, SCORES = (1, 4, 5), (1, 4, 5, 3)


@pytest.mark.parametrize(
  ("function", "right", "wrong"),
  [
    (
      fusion.fuse,
      (logits(*SCORES), logits(*SCORES), logits(*MAP)),
      (logits(*SCORES), logits(*MAP, 2), logits(*MAP)),
    ),
    (fusion.fuse, (logits(4, 3), logits(4, 3), logits(4)), (logits(4, 3), logits(4, 3), logits(4, 3))),
    (fusion.gate_features, (logits(4, 3), logits(4, 3), logits(4)), (logits(4, 3), logits(4, 3), logits(5))),
    (error_target, (logits(*SCORES), ids(*MAP)), (logits(*SCORES), ids(1, 5, 4))),
    (jaccard_loss, (logits(*SCORES), ids(*MAP)), (logits(*SCORES), ids(4, 5))),
    (pixel_losses.pixel_cross_entropy, (logits(4, 3), ids(4)), (logits(4, 3), logits(4))),
    (confusion_matrix, (ids(*MAP), ids(*MAP), 3), (ids(*MAP), ids(1, 20), 3)),
    (error_histogram, (logits(*MAP), flags(*MAP), flags(*MAP)), (logits(*MAP), flags(*MAP), ids(*MAP))),
    (error_scores, (HISTOGRAM,), (HISTOGRAM[0],)),
    (calibrated, (logits(*MAP), PLATT), (ids(*MAP), PLATT)),
  ],
)
def test_the_shapes_are_right(function, right, wrong):
  own = checked(function)
  own(*right)
  with pytest.raises(TypeCheckError):
    own(*wrong)
