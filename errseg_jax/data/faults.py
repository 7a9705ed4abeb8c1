"""What can be wrong with a data set, and what mends it: the kinds of fault that `errseg data check` tells apart."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Fault:
  """A kind of fault.

  Attributes:
    what: it is.
    fix: the flag, command or step that mends it.
    fatal: training ends at it.
  """

  what: str
  fix: str
  fatal: bool


@dataclasses.dataclass(frozen=True)
class Finding:
  """One thing that is wrong.

  Attributes:
    kind: a key of `FAULTS`.
    split: in which it was found.
    message: names the file, says what is wrong and what to do; one line.
  """

  kind: str
  split: str
  message: str

  @property
  def fatal(self) -> bool:
    """Training ends at it."""
    return FAULTS[self.kind].fatal


MAPPED = "--config.data.label_map='{stored: train id or 255, ...}'"
FAULTS = {
  "unpaired": Fault(
    "image without a label, or the other way round", "add the other file, or remove this one", True
  ),
  "repeated": Fault(
    "several samples of one name", "take an image out of the list that is there twice, or rename it", True
  ),
  "undecodable": Fault("cannot be decoded", "take the file anew from its source", True),
  "size": Fault(
    "label of another size than its image", "resize it by nearest neighbour, or mend the pairing", True
  ),
  "colour_mask": Fault(
    "colours in place of class ids", "save labels as one channel of ids, or with a palette", True
  ),
  "deep_label": Fault(
    "label values above 255", "convert instance or depth maps to class ids of 8 bits", True
  ),
  "deep_image": Fault("image of more than 8 bits a channel", "convert it to 8-bit RGB", True),
  "scores": Fault("scores that are missing or do not fit", "run the network that left them again", True),
  "label_value": Fault("label value that is no class", f"{MAPPED}, or --config.data.num_classes=C", True),
  "splits": Fault("splits that cannot train", "--config.splits.choose=SPLIT and its like", True),
  "incomplete": Fault(
    "fewer or more images than were published", "look for what is missing in the archive", False
  ),
  "absent_class": Fault("class without a pixel", "add images of it; it is never learnt or scored", False),
  "much_ignored": Fault("most pixels are ignored", f"look at {MAPPED}", False),
  "binary_mask": Fault(
    "0 and 255 alone", "--config.data.label_map='{0: 0, 255: 1}' where 255 is a class", False
  ),
  "all_ignored": Fault(
    "image with nothing but ignored pixels", "label it, or remove it: it teaches nothing", False
  ),
  "duplicate": Fault(
    "the same image in two splits", "remove it from the training images: scores flatter", False
  ),
  "near_duplicate": Fault(
    "almost the same image in two splits", "look at both, and keep one: scores flatter", False
  ),
  "grey": Fault("grey image", "nothing, where grey images will come later too: it is read as RGB", False),
  "cmyk": Fault("CMYK image", "convert it to RGB: its colours are converted by rule of thumb", False),
  "rotated": Fault("image with an EXIF rotation", "check that its label lies on the upright image", False),
}
"""The kinds, worst first."""
NOTES = {
  "grey": "is grey; it is read as RGB of three equal channels",
  "cmyk": "is CMYK; convert it to RGB, or its colours come out by rule of thumb",
  "rotated": "has an EXIF rotation and is read upright; check that its label lies on the upright image",
}
"""What is said of an image file by the kind that its header shows."""
