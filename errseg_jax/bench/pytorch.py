"""The same networks here and in PyTorch, with the same weights, timed in one run.

PyTorch's are those of segmentation-models-pytorch, which is no dependency: what is not installed is not compared.
"""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.table import Table

from errseg_jax import assemble
from errseg_jax.bench.rounds import in_rounds
from errseg_jax.convert.command import converted_variables, resolved_config
from errseg_jax.convert.networks import NETWORKS
from errseg_jax.errors import UserError
from errseg_jax.inference.speed import hardware
from errseg_jax.models.folding import fold, foldable, folded
from errseg_jax.models.resize import resize
from errseg_jax.models.segmenter import Segmenter
from errseg_jax.pixel_losses import pixel_cross_entropy

log = logging.getLogger("errseg")
ENCODERS = ("resnet50", "mobilenet_v2")
MULTIPLE = 16  # segmentation-models-pytorch takes no other sizes
CLASSES = 21
BATCH = {"inference": 1, "training": 4}
ROUNDS = {"inference": 7, "training": 3}
LEARNING_RATE, MOMENTUM = 0.01, 0.9


def compare(height: int, width: int) -> dict[str, Any]:
  """Milliseconds of a forward pass and of a training step of DeepLabv3+ at output stride 16.

  A training step is cross-entropy at the image's size and SGD with momentum.

  Returns:
    {"image_size", "hardware", "torch", "rows": [{"encoder", "what", "batch", "ms", "eager_ms", "compiled_ms",
    "ratio", "difference"}]}. "ms" is ours, medians over the rounds; "compiled_ms" None where torch.compile does not
    work. "ratio": ms / eager_ms, the median of that within a round. "difference": of the logits, at rest, to the
    largest of them.

  Raises:
    UserError: PyTorch or segmentation-models-pytorch is missing, or the size is none that the latter takes.
  """
  torch, smp = libraries()
  if height % MULTIPLE or width % MULTIPLE:
    raise UserError(f"--size={height}x{width}: segmentation-models-pytorch takes multiples of {MULTIPLE}")
  rows = []
  for encoder in ENCODERS:
    torch.manual_seed(0)
    net = smp.DeepLabV3Plus(encoder, encoder_weights=None, classes=CLASSES)
    segmenter, variables = ours(net.eval())
    for what, build in (("inference", inference), ("training", training)):
      programs = build(torch, net, segmenter, variables, height, width)
      difference = programs.pop("difference", None)
      found = in_rounds(programs, ROUNDS[what])
      row = {"encoder": encoder, "what": what, "batch": BATCH[what]}
      for key, name in (("ms", "ours"), ("eager_ms", "eager"), ("compiled_ms", "compiled")):
        row[key] = 1000 * float(np.median(found[name])) if name in found else None
      row["ratio"] = float(np.median(found["ours"] / found["eager"]))
      rows.append(row | {"difference": difference})
  return {
    "image_size": [height, width],
    "hardware": hardware(),
    "torch": {"version": torch.__version__, "device": str(place(torch)), "threads": torch.get_num_threads()},
    "rows": rows,
  }


def libraries() -> tuple[Any, Any]:
  """(torch, segmentation_models_pytorch).

  Raises:
    UserError: one is missing.
  """
  try:
    import segmentation_models_pytorch as smp
    import torch
  except ImportError as error:
    raise UserError(
      f"--what=pytorch wants {error.name}, which is missing: pip install torch segmentation-models-pytorch"
    ) from None
  return torch, smp


def place(torch: Any) -> Any:
  """The device that PyTorch computes on: a GPU where we have one too."""
  return torch.device("cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu")


def ours(net: Any) -> tuple[Segmenter, dict[str, Any]]:
  """Our network with the weights of theirs."""
  arrays = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
  network = NETWORKS["smp_deeplabv3plus"]
  config = resolved_config(network, arrays, True)
  segmenter = assemble.segmenter(config, CLASSES)
  assert isinstance(segmenter, Segmenter)
  return segmenter, converted_variables(network, arrays, config, type(net).__name__, True)


def inference(
  torch: Any, net: Any, segmenter: Segmenter, variables: dict[str, Any], height: int, width: int
) -> dict[str, Any]:
  """{"ours", "eager", "compiled"}: programs of a forward pass; "difference": of their logits."""
  image = np.random.default_rng(0).integers(0, 256, (BATCH["inference"], height, width, 3), np.uint8)
  pairs = foldable(segmenter)
  kept = jax.device_put((fold(variables, pairs), image))

  @jax.jit
  def run(variables, image):
    with folded(pairs):
      return logits(segmenter, variables, image, False)[0]

  pixels = as_tensor(torch, normalised(segmenter, image))
  net = net.to(place(torch)).eval()

  def forward(module: Any) -> Any:
    with torch.inference_mode():
      out = module(pixels)
    return wait(torch, out)

  theirs = forward(net).cpu().numpy().transpose(0, 2, 3, 1)
  difference = float(np.abs(np.asarray(run(*kept)) - theirs).max() / np.abs(theirs).max())
  programs: dict[str, Any] = {
    "ours": functools.partial(run, *kept),
    "eager": functools.partial(forward, net),
    "difference": difference,
  }
  return programs | compiled(torch, net, forward)


def training(
  torch: Any, net: Any, segmenter: Segmenter, variables: dict[str, Any], height: int, width: int
) -> dict[str, Any]:
  """{"ours", "eager", "compiled"}: programs of a training step."""
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (BATCH["training"], height, width, 3), np.uint8)
  label = rng.integers(0, CLASSES, image.shape[:3], np.uint8)
  tx = optax.sgd(LEARNING_RATE, MOMENTUM)

  def loss(params, stats, image, label):
    out, changed = logits(segmenter, {"params": params, "batch_stats": stats}, image, True)
    return pixel_cross_entropy(out, label).mean(), changed

  @functools.partial(jax.jit, donate_argnums=0)
  def step(state, image, label):
    params, stats, slots = state
    grads, changed = jax.grad(loss, has_aux=True)(params, stats, image, label)
    updates, slots = tx.update(grads, slots, params)
    return optax.apply_updates(params, updates), changed["batch_stats"], slots

  params = jax.tree.map(jnp.array, variables["params"])
  state = [(params, jax.tree.map(jnp.array, variables["batch_stats"]), tx.init(params))]
  data = jax.device_put((image, label))

  def run() -> None:
    state[0] = jax.block_until_ready(step(state[0], *data))

  pixels = as_tensor(torch, normalised(segmenter, image))
  target = torch.from_numpy(label.astype(np.int64)).to(pixels.device)
  net = net.to(pixels.device).train()
  optimizer = torch.optim.SGD(net.parameters(), LEARNING_RATE, MOMENTUM)

  def theirs(module: Any) -> Any:
    optimizer.zero_grad(set_to_none=True)
    value = torch.nn.functional.cross_entropy(module(pixels), target)
    value.backward()
    optimizer.step()
    return wait(torch, value)

  programs: dict[str, Any] = {"ours": run, "eager": functools.partial(theirs, net)}
  return programs | compiled(torch, net, theirs)


def compiled(torch: Any, net: Any, run: Callable[[Any], Any]) -> dict[str, Callable[[], Any]]:
  """{"compiled": `run` of the network by torch.compile}; nothing where that does not work here."""
  if place(torch).type == "cpu" and shutil.which("g++") is None:
    log.info("torch.compile needs a C++ compiler (g++), which is missing: left out")
    return {}
  module = torch.compile(net)
  try:
    run(module)
  except Exception as error:  # whatever its compiler meets
    log.info("torch.compile: %s; left out", str(error).partition("\n")[0])
    return {}
  return {"compiled": functools.partial(run, module)}


def logits(segmenter: Segmenter, variables: Any, image: jax.Array, train: bool) -> tuple[jax.Array, Any]:
  """(logits [B, H, W, C] at the image's size, changed batch statistics)."""
  rngs = {"dropout": jax.random.key(0)}
  out, changed = segmenter.apply(variables, image, train, mutable=["batch_stats"], rngs=rngs)
  return resize(out.logits, image.shape[1:3], out.align_corners), changed


def normalised(segmenter: Segmenter, image: np.ndarray) -> np.ndarray:
  """What our network makes of a uint8 image first; theirs is given it."""
  return (image.astype(np.float32) - np.array(segmenter.mean, np.float32)) / np.array(
    segmenter.std, np.float32
  )


def as_tensor(torch: Any, image: np.ndarray) -> Any:
  """[B, H, W, 3] -> its [B, 3, H, W], on PyTorch's device."""
  return torch.from_numpy(np.ascontiguousarray(image.transpose(0, 3, 1, 2))).to(place(torch))


def wait(torch: Any, out: Any) -> Any:
  """The result, computed."""
  if out.device.type == "cuda":
    torch.cuda.synchronize()
  return out


def table(found: dict[str, Any]) -> Table:
  """The comparison as a table."""
  height, width = found["image_size"]
  device = (
    f"ours {found['hardware']['device']}, PyTorch {found['torch']['version']} {found['torch']['device']}"
  )
  out = Table(title=f"DeepLabv3+, output stride 16, {height}x{width} pixels; {device}")
  for column in (
    "encoder",
    "what",
    "batch",
    "ours, ms",
    "eager, ms",
    "compiled, ms",
    "ours / eager",
    "difference",
  ):
    out.add_column(column, justify="left" if column in ("encoder", "what") else "right")
  for row in found["rows"]:
    numbers = ("-" if row[key] is None else f"{row[key]:,.1f}" for key in ("ms", "eager_ms", "compiled_ms"))
    difference = "-" if row["difference"] is None else f"{row['difference']:.0e}"
    out.add_row(row["encoder"], row["what"], str(row["batch"]), *numbers, f"{row['ratio']:.2f}", difference)
  return out
