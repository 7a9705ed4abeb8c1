"""One optimizer step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from errseg_jax.kernels import Terms, fused_sums
from errseg_jax.losses import CascadeLoss, GuidedLoss, error_target
from errseg_jax.models.error_aware import ErrorAware
from errseg_jax.pixel_losses import weighted_mean
from errseg_jax.sharding import keep_placed
from errseg_jax.structs import IGNORE, Batch, Outputs
from errseg_jax.train.stages import Stage
from errseg_jax.train.state import TrainState, Variables, merge

Step = Callable[[TrainState, Variables, Batch], tuple[TrainState, dict[str, jax.Array]]]


def products(primitive: Any, *_: Any, **__: Any) -> bool:
  """Of what a forward pass computes, that which is dear to compute again: convolutions and matrix products."""
  return primitive.name in ("conv_general_dilated", "dot_general")


def make_loss(model: ErrorAware, stage: Stage, loss: Any, remat: bool = False) -> Callable:
  """(trained params, trained batch_stats, frozen, batch, rng) -> (loss, (new batch_stats, metrics)).

  The terms of a cascade's and of a guided network's loss are metrics too.

  Where the segmenter is frozen, `error_rate` is its rate of wrong pixels in the images as they are fed: what
  the branches learn from, to hold against `choose/error_rate`, that on unseen images.

  `frozen["loss"]`, where there is one, holds what the loss takes beside outputs and labels: a confusion matrix.

  Gradients are taken for the first argument only; the frozen network is an argument of its own, so its
  gradient is never formed.

  With `remat` the backward pass keeps `products` alone and computes what lies between them again; XLA on CPU keeps it
  all the same.
  """

  def forward(params, batch_stats, network, batch, rng):
    variables = merge(network, {"params": params, "batch_stats": batch_stats})
    options: dict[str, Any] = {"train": stage.groups, "wanted": stage.wanted, "features": batch.features}
    return model.apply(variables, batch.image, **options, rngs={"dropout": rng}, mutable=["batch_stats"])

  if remat:
    forward = jax.checkpoint(forward, policy=products)

  def loss_fn(params, batch_stats, frozen, batch, rng):
    network = {kind: tree for kind, tree in frozen.items() if kind != "loss"}
    outputs, changed = forward(params, batch_stats, network, batch, rng)
    new = changed.get("batch_stats", {})
    metrics = {} if "segmenter" in stage.groups else {"error_rate": error_rate(outputs, batch.label)}
    more = frozen.get("loss", {})
    if isinstance(loss, CascadeLoss | GuidedLoss):
      metrics |= loss.terms(outputs, batch.label, **more)
    return loss(outputs, batch.label, **more), ({g: new[g] for g in batch_stats}, metrics)

  return loss_fn


def error_rate(outputs: Outputs, label: jax.Array) -> jax.Array:
  """Wrong pixels of the frozen network among the labelled ones, percent; 0 without one.

  Args:
    outputs: of a forward pass.
    label: uint8 [B, H, W], 255 = ignore.
  """
  sums = fused_sums(outputs.coarse, label, Terms(wrong=True))
  if sums is not None:
    return sums.error_rate()
  semantic = outputs.semantic
  return 100 * weighted_mean(error_target(semantic, label), label != IGNORE)


def make_step(
  model: ErrorAware,
  stage: Stage,
  loss: Any,
  tx: optax.GradientTransformation,
  seed: int,
  remat: bool = False,
  mesh: jax.sharding.Mesh | None = None,
) -> Step:
  """The jitted step of a stage: (state, frozen, batch) -> (state, metrics).

  The state is donated, the frozen network is not; on a mesh with an axis `model` it lies as it came.
  Dropout keys are a function of (seed, stage, step).
  """
  loss_fn = make_loss(model, stage, loss, remat)

  def step(state: TrainState, frozen: Variables, batch: Batch):
    rng = jax.random.fold_in(jax.random.key(stage.seed(seed)), state.step)
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    params, stats = state.variables["params"], state.variables.get("batch_stats", {})
    (value, (stats, metrics)), grads = value_and_grad(params, stats, frozen, batch, rng)
    updates, opt_state = tx.update(grads, state.opt_state, params)
    variables = {"params": optax.apply_updates(params, updates), "batch_stats": stats}
    ema = state.ema
    if ema is not None:
      # Early on the average follows the weights closely, or it would start from noise.
      decay = jnp.minimum(stage.ema, (1.0 + state.step) / (10.0 + state.step))
      ema = optax.incremental_update(variables, ema, 1.0 - decay)
    metrics |= {"loss": value, "grad_norm": optax.global_norm(grads)}
    state = TrainState(state.step + 1, variables, opt_state, ema)
    return state if mesh is None else keep_placed(state, mesh), metrics

  return jax.jit(step, donate_argnums=0)
