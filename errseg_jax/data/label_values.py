"""From stored label values to train ids, and what it means where a value is none."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from errseg_jax.errors import BadFile
from errseg_jax.structs import IGNORE

REFUSED = -1  # in a label map: the value is an error, even where it is 255


@dataclasses.dataclass(frozen=True)
class LabelValues:
  """What stored values mean.

  Attributes:
    num_classes: C.
    label_map: stored value -> train id, or REFUSED; () keeps values. 255 maps to itself unless it is listed.
    advice: what a value that is not in the map means; set where the map is the data set's own.
  """

  num_classes: int
  label_map: tuple[tuple[int, int], ...] = ()
  advice: str = ""

  def train_ids(self, stored: np.ndarray, path: str) -> np.ndarray:
    """uint8 [H, W], 0..C-1 and 255.

    Args:
      stored: uint8 or int32 [H, W].
      path: of the label, for messages.

    Raises:
      UserError: a value has no train id.
    """
    label = self._table(stored)
    if (bad := np.unique(stored[label < 0])).size:
      raise BadFile("label_value", f"{path}: {self._explain(bad.tolist(), stored)}")
    return label.astype(np.uint8)

  def _table(self, stored: np.ndarray) -> np.ndarray:
    """int16 [H, W], REFUSED where a stored value has no train id."""
    pairs = self.label_map or [(value, value) for value in range(self.num_classes)]
    least = min([0, *(value for value, _ in pairs)]) - 1
    # One entry more at either end: values of any size beyond them fall there, refused.
    table = np.full(IGNORE + 2 - least, REFUSED, np.int16)
    table[IGNORE - least] = IGNORE
    for value, train_id in pairs:
      table[value - least] = train_id
    if stored.dtype == np.uint8:  # the usual case, several times faster
      return cv2.LUT(stored, table[np.arange(256) - least])
    return table[np.clip(stored.astype(np.int32), least, IGNORE + 1) - least]

  def _explain(self, bad: list[int], stored: np.ndarray) -> str:
    value, count = bad[0], self.num_classes
    if self.advice:
      return f"label value {value} {self.advice}"
    if self.label_map:
      return f"label value {value} is not in label_map; add it, as {value}: 255 to ignore it"
    start = f"label value {value} is outside 0..{count - 1} (the config says C={count}) and not 255"
    if count == 19 and bad[-1] <= 33:
      return f"{start}; looks like Cityscapes label ids: use *_labelTrainIds.png or set label_map"
    if bad == [count] and not (stored == 0).any():
      return f"{start}; ids seem to start at 1: set label_map to {{1: 0, 2: 1, ...}}"
    if len(bad) > 16:
      return (
        f"{start}, nor are {len(bad) - 1} more values; looks like a grey or colour mask, or one "
        "that was resized or saved as JPEG: convert it to class ids"
      )
    return f"{start}; the class count is too small, or map the value to 255 in label_map"
