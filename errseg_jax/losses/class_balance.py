"""Settings by which a loss weighs classes, checked."""

from __future__ import annotations

from errseg_jax.errors import UserError
from errseg_jax.pixel_losses import CrossEntropy, InverseFrequency


def check_balance(balance: float, section: str) -> None:
  """Refuses a power of `class_weights` that is none.

  Raises:
    UserError: it is not in 0..1.
  """
  if not 0 <= balance <= 1:
    raise UserError(f"{section}.balance={balance} must be between 0 (off) and 1 (inverse frequency)")


def check_weighed_once(pixel: CrossEntropy, balance: float, weights: tuple[float, ...], section: str) -> None:
  """Refuses class weights from two sides.

  Raises:
    UserError: the pixel loss brings its own, and there is a balance or weights by hand.
  """
  if isinstance(pixel, InverseFrequency) and (balance or weights):
    raise UserError(
      f"{section}.pixel weighs classes by their frequency, and so do {section}.balance={balance} and "
      f"class_weights={weights}: set balance to 0 and class_weights to (), or take another pixel loss"
    )
